"""The toy model of step 1: many sparse features squeezed through a few hidden dimensions."""

import torch
from torch import nn

from sae_lib.checks import real, whole


class ToyModel(nn.Module):
    """Rebuild n_features sparse inputs from n_hidden numbers, usually fewer.

        h     = W f                    hidden activations  (batch, n_hidden)
        f_hat = ReLU(Wᵀ h + b)         output              (batch, n_features)

    W (n_hidden, n_features), b (n_features,). Column j of W is feature j's direction.
    A feature is off with probability `sparsity`; when on, its value is uniform on [0, 1].
    All features matter equally, so that every one of them gets a real direction.
    Elhage et al. 2022, "Toy Models of Superposition".
    """

    def __init__(
        self, n_features: int = 10, n_hidden: int = 5, sparsity: float = 0.9, *, seed: int = 0
    ):
        super().__init__()
        n_features = whole("n_features", n_features, 1, 1_000)  # a toy: figures draw n × n cells
        n_hidden = whole("n_hidden", n_hidden, 1, 1_000)
        self.sparsity = real("sparsity", sparsity, 0, 0.999)
        self.seed = whole("seed", seed, 0, 2**63 - 1)
        rng = torch.Generator().manual_seed(self.seed)
        W = torch.randn(n_hidden, n_features, generator=rng, dtype=torch.float32, device="cpu")
        self.W = nn.Parameter(W / n_hidden**0.5)
        self.b = nn.Parameter(torch.zeros_like(W[0]))

    @property
    def feature_directions(self) -> torch.Tensor:
        """The ground truth, one row per feature: (n_features, n_hidden)."""
        return self.W.detach().T

    def sample_features(self, n: int, *, seed: int | torch.Generator = 0) -> torch.Tensor:
        """n inputs (n, n_features), drawn on the CPU so that every device sees the same."""
        rng = seed
        if not isinstance(rng, torch.Generator):
            rng = torch.Generator().manual_seed(whole("seed", seed, 0, 2**63 - 1))
        shape = (whole("n", n, 1, 10**8), self.b.shape[-1])
        how = {"generator": rng, "dtype": torch.float32, "device": "cpu"}
        is_on = torch.rand(shape, **how) >= self.sparsity
        return (torch.rand(shape, **how) * is_on).to(self.b)

    def encode(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, n_features) -> (batch, n_hidden)."""
        return features @ self.W.T

    def decode(self, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, n_hidden) -> (batch, n_features)."""
        return torch.relu(hidden @ self.W + self.b)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(features))

    def loss(self, features: torch.Tensor) -> torch.Tensor:
        """The squared error, summed over features and averaged over the batch."""
        return (features - self(features)).square().sum(dim=-1).mean()


def train_toy_model(
    model: ToyModel,
    *,
    n_steps: int = 2_000,
    batch_size: int = 512,
    lr: float = 1e-2,
    seed: int = 0,
) -> None:
    """Train a toy model, in place: Adam on its loss, fresh inputs every step.

    The learning rate falls to zero along a cosine.
    """
    whole("n_steps", n_steps, 1, 10**7)
    rng = torch.Generator().manual_seed(whole("seed", seed, 0, 2**63 - 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for _ in range(n_steps):
        loss = model.loss(model.sample_features(batch_size, seed=rng))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    if not torch.isfinite(model.W).all():
        raise FloatingPointError("Training ran away to NaN or infinity; try a smaller lr.")

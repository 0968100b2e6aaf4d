"""The base model of step 1: many sparse features squeezed through a few hidden dimensions."""

from collections.abc import Sequence

import torch
from torch import nn

from sae_lib.guards import with_gradients


class ToyModel(nn.Module):
    """Rebuild n_features sparse inputs from n_hidden < n_features numbers.

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
        self.sparsity = sparsity
        generator = torch.Generator().manual_seed(int(seed))
        W = torch.randn(n_hidden, n_features, generator=generator) / n_hidden**0.5
        self.W = nn.Parameter(W)
        self.b = nn.Parameter(torch.zeros(n_features))

    @property
    def feature_directions(self) -> torch.Tensor:
        """The ground truth, one row per feature: (n_features, n_hidden)."""
        return self.W.detach().mT

    def sample_features(self, n: int, *, seed: int | torch.Generator = 0) -> torch.Tensor:
        """n inputs (n, n_features), drawn on the CPU so that every device sees the same."""
        is_rng = isinstance(seed, torch.Generator)
        rng = seed if is_rng else torch.Generator().manual_seed(int(seed))
        shape = (n, self.W.shape[-1])
        is_on = torch.rand(shape, generator=rng) >= self.sparsity
        return (torch.rand(shape, generator=rng) * is_on).to(self.W)

    def encode(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, n_features) -> (batch, n_hidden)."""
        return features @ self.W.mT

    def decode(self, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, n_hidden) -> (batch, n_features)."""
        return torch.relu(hidden @ self.W + self.b)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(features))


@with_gradients
def train_toy_model(
    model: ToyModel,
    *,
    n_steps: int = 2_000,
    batch_size: int = 512,
    lr: float = 1e-2,
    seed: int | Sequence[int] = 0,
) -> None:
    """Train a model, in place: Adam on the squared error, fresh inputs every step.

    The error is summed over features and averaged over the batch; the learning rate falls to
    zero along a cosine. A stack of models (see `train_toy_models`) takes a list of seeds.
    """
    seeds = seed if isinstance(seed, Sequence) else [seed]
    generators = [torch.Generator().manual_seed(int(one)) for one in seeds]
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for _ in range(n_steps):
        features = torch.stack([model.sample_features(batch_size, seed=g) for g in generators])
        loss = (features - model(features)).square().sum(dim=-1).mean(dim=-1)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        schedule.step()
    if not torch.isfinite(model.W).all():
        raise FloatingPointError("Training ran away to NaN or infinity; try a smaller lr.")

"""The base model of step 1: many sparse features squeezed through a few hidden dimensions."""

from collections.abc import Sequence

import torch
from torch import nn

from sae_lib.stacking import Stack, stacked_gradients
from sae_lib.validation import require_float_tensor, require_positive_int


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
        require_positive_int(n_features=n_features, n_hidden=n_hidden)
        if not 0 <= sparsity < 1:
            raise ValueError(f"sparsity must lie in [0, 1), but {sparsity} came.")
        self.sparsity = sparsity
        generator = torch.Generator().manual_seed(seed)
        W = torch.randn(n_hidden, n_features, generator=generator) / n_hidden**0.5
        self.W = nn.Parameter(W)
        self.b = nn.Parameter(torch.zeros(n_features))

    @property
    def feature_directions(self) -> torch.Tensor:
        """The ground truth, one row per feature: (n_features, n_hidden)."""
        return self.W.detach().T

    def sample_features(self, n: int, *, seed: int | torch.Generator = 0) -> torch.Tensor:
        """n inputs (n, n_features), drawn on the CPU so that every device sees the same."""
        require_positive_int(n=n)
        rng = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        shape = (n, self.W.shape[1])
        is_on = torch.rand(shape, generator=rng) >= self.sparsity
        return (torch.rand(shape, generator=rng) * is_on).to(self.W.device)

    def encode(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, n_features) -> (batch, n_hidden)."""
        require_float_tensor("features", features, last_dim=self.W.shape[1])
        return features @ self.W.T

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.encode(features) @ self.W + self.b)


def train_toy_models(
    models: Sequence[ToyModel],
    *,
    n_steps: int = 2_000,
    batch_size: int = 512,
    lr: float = 1e-2,
    seeds: Sequence[int],
) -> None:
    """Train models of one shape, in place, all in one loop.

    Adam on the squared error (summed over features, mean over the batch), fresh inputs every
    step, the learning rate falling to zero along a cosine. seeds: one per model.
    """
    require_positive_int(n_steps=n_steps, batch_size=batch_size)
    if len(models) != len(seeds) or not models:
        raise ValueError(f"Give one seed per model: {len(models)} models, {len(seeds)} seeds came.")
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    stack = Stack(models)

    def loss_of_one(params, features):
        rebuilt = stack.call_one(params, features)
        return (features - rebuilt).square().sum(dim=-1).mean(), ()

    gradients_of = stacked_gradients(loss_of_one)
    optimizer = torch.optim.Adam(stack.trained(), lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for _ in range(n_steps):
        features = torch.stack(
            [m.sample_features(batch_size, seed=g) for m, g in zip(models, generators, strict=True)]
        )
        stack.set_gradients(gradients_of(stack.params, features)[0])
        optimizer.step()
        schedule.step()
    stack.copy_back()


def train_toy_model(model: ToyModel, *, seed: int = 0, **settings) -> None:
    """`train_toy_models` for a single model."""
    train_toy_models([model], seeds=[seed], **settings)

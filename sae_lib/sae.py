"""The sparse autoencoder, its loss, and its one variant: the heart of the lesson."""

from typing import NamedTuple

import torch
from torch import nn

from sae_lib.checks import whole


class SAELoss(NamedTuple):
    """The three numbers of one batch: total = reconstruction + sparsity (λ is already in it)."""

    total: torch.Tensor
    reconstruction: torch.Tensor
    sparsity: torch.Tensor


def sae_loss(
    x: torch.Tensor, x_hat: torch.Tensor, latent_acts: torch.Tensor, l1_coefficient: float
) -> SAELoss:
    """Squared error plus λ times the activity of the latents, for one batch.

    total = mean over the batch of  sum_j (x_j - x_hat_j)^2  +  λ · sum_i |h_i|

    Summed over the d_in coordinates, not averaged: averaging would divide the first term by
    d_in, and so make the same λ weigh d_in times more (five times, here).
    x, x_hat (batch, d_in); latent_acts (batch, d_sae). Bricken et al. 2023, "Setup".
    """
    reconstruction = (x - x_hat).square().sum(dim=-1).mean()
    sparsity = l1_coefficient * latent_acts.abs().sum(dim=-1).mean()
    return SAELoss(reconstruction + sparsity, reconstruction, sparsity)


def random_directions(n: int, d: int, *, seed: int = 0) -> torch.Tensor:
    """n directions of length 1, uniform on the sphere in d dimensions: (n, d)."""
    whole("d_sae, the number of directions", n, 1, 10**6)
    whole("d_in, their dimension", d, 1, 10**6)
    generator = torch.Generator().manual_seed(whole("seed", seed, 0, 2**63 - 1))
    directions = torch.randn(n, d, generator=generator, dtype=torch.float32, device="cpu")
    return directions / directions.norm(dim=-1, keepdim=True)


class SparseAutoencoder(nn.Module):
    """Rebuild activations from a few directions of a wide dictionary.

        h     = ReLU(x W_enc + b_enc)     latent_acts     (batch, d_sae), never negative
        x_hat = h W_dec + b_dec           reconstruction  (batch, d_in)

    W_enc (d_in, d_sae), b_enc (d_sae,), W_dec (d_sae, d_in), b_dec (d_in,).
    Row i of W_dec is the direction that latent i writes. It starts random, with length 1.
    W_enc starts as its transpose, so that each latent reads what it writes, times
    2 d_in / d_sae: half of the latents fire at first, and so x_hat starts about as large as x.
    Simplified from Bricken et al. 2023 (who subtract b_dec from x first) and Cunningham et al.
    2023 (who tie encoder and decoder).
    """

    def __init__(self, d_in: int, d_sae: int, *, seed: int = 0):
        super().__init__()
        directions = random_directions(d_sae, d_in, seed=seed)
        # about half of the latents fire at first: with this, x_hat is about as large as x
        scale = 2 * d_in / d_sae
        self.W_enc = nn.Parameter(scale * directions.T.contiguous())
        self.b_enc = nn.Parameter(torch.zeros_like(directions[:, 0]))
        self.W_dec = nn.Parameter(directions)
        self.b_dec = nn.Parameter(torch.zeros_like(directions[0]))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Which latents fire, and how strongly: (batch, d_in) -> (batch, d_sae)."""
        return torch.relu(x @ self.W_enc + self.b_enc)

    def decode(self, latent_acts: torch.Tensor) -> torch.Tensor:
        """The sum of the directions that fired: (batch, d_sae) -> (batch, d_in)."""
        return latent_acts @ self.W_dec + self.b_dec

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latent_acts = self.encode(x)
        return self.decode(latent_acts), latent_acts

    def loss(self, x: torch.Tensor, l1_coefficient: float) -> SAELoss:
        x_hat, latent_acts = self(x)
        return sae_loss(x, x_hat, latent_acts, l1_coefficient)

    @torch.no_grad()
    def normalize_decoder_(self) -> None:
        """Set every decoder direction back to length 1, in place."""
        self.W_dec.div_(self.W_dec.norm(dim=-1, keepdim=True).clamp_min(1e-7))


class TopKSparseAutoencoder(SparseAutoencoder):
    """Keep the k strongest latents of each input and set the rest to zero.

    h = TopK(ReLU(x W_enc + b_enc)). At most k latents fire, by construction, so no price on
    activity is needed: the loss is the squared error alone, whatever l1_coefficient is, and
    nothing shrinks. Gao et al. 2024, arXiv 2406.04093.
    """

    def __init__(self, d_in: int, d_sae: int, *, k: int, seed: int = 0):
        super().__init__(d_in, d_sae, seed=seed)
        self.k = whole("k", k, 1, d_sae)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        latent_acts = super().encode(x)
        strongest = latent_acts.topk(self.k, dim=-1)
        return torch.zeros_like(latent_acts).scatter(-1, strongest.indices, strongest.values)

    def loss(self, x: torch.Tensor, l1_coefficient: float = 0.0) -> SAELoss:
        return super().loss(x, 0.0)

"""The sparse autoencoder, its loss, and its one variant: the heart of the lesson."""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from sae_lib.validation import (
    require_float_tensor,
    require_positive_int,
    require_same_shape,
)


class SparseAutoencoder(nn.Module):
    """Rebuild activations from a few directions of a wide dictionary.

        h     = ReLU(x W_enc + b_enc)     feature_acts    (batch, d_sae), never negative
        x_hat = h W_dec + b_dec           reconstruction  (batch, d_in)

    W_enc (d_in, d_sae), b_enc (d_sae,), W_dec (d_sae, d_in), b_dec (d_in,).
    Row i of W_dec is the direction that latent i writes. It starts random, with length 1;
    W_enc starts as its transpose, so that at first each latent reads what it writes.
    Simplified from Bricken et al. 2023 (who subtract b_dec from x first) and Cunningham et al.
    2023 (who tie encoder and decoder).
    """

    def __init__(self, d_in: int, d_sae: int, *, seed: int = 0):
        super().__init__()
        require_positive_int(d_in=d_in, d_sae=d_sae)
        directions = torch.randn(d_sae, d_in, generator=torch.Generator().manual_seed(seed))
        directions /= directions.norm(dim=-1, keepdim=True)
        self.W_enc = nn.Parameter(directions.T.clone(memory_format=torch.contiguous_format))
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.W_dec = nn.Parameter(directions)
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Which latents fire, and how strongly: (batch, d_in) -> (batch, d_sae)."""
        require_float_tensor("x", x, last_dim=self.W_enc.shape[0])
        return torch.relu(x @ self.W_enc + self.b_enc)

    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        """The sum of the directions that fired: (batch, d_sae) -> (batch, d_in)."""
        require_float_tensor("feature_acts", feature_acts, last_dim=self.W_dec.shape[0])
        return feature_acts @ self.W_dec + self.b_dec

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        feature_acts = self.encode(x)
        return self.decode(feature_acts), feature_acts

    @torch.no_grad()
    def normalize_decoder_(self) -> None:
        """Set every decoder direction back to length 1, in place."""
        norms = torch.linalg.vector_norm(self.W_dec, dim=-1, keepdim=True)
        self.W_dec.div_(norms.clamp_min(1e-12))


class SAELoss(NamedTuple):
    """The three numbers of one batch: total = reconstruction + l1 (λ is already in l1)."""

    total: torch.Tensor
    reconstruction: torch.Tensor
    l1: torch.Tensor


def sae_loss(
    x: torch.Tensor, x_hat: torch.Tensor, feature_acts: torch.Tensor, l1_coefficient: float
) -> SAELoss:
    """Squared error plus λ times the size of the code, for one batch.

    total = mean over the batch of  sum_j (x_j - x_hat_j)^2  +  λ · sum_i |h_i|

    Summed over the d_in dimensions, not averaged: averaging would divide the first term by
    d_in, and so make the same λ weigh d_in times more (five times, here).
    x, x_hat (batch, d_in); feature_acts (batch, d_sae). Bricken et al. 2023, "Setup".
    """
    require_same_shape(x=x, x_hat=x_hat)
    reconstruction = (x_hat - x).square().sum(dim=-1).mean()
    l1 = l1_coefficient * feature_acts.abs().sum(dim=-1).mean()
    return SAELoss(reconstruction + l1, reconstruction, l1)


class TopKSparseAutoencoder(SparseAutoencoder):
    """Keep the k strongest latents of each input and set the rest to zero.

    h = TopK(ReLU(x W_enc + b_enc)): L0 is at most k by construction, so no L1 is needed
    (train with l1_coefficient=0) and nothing shrinks. Gao et al. 2024, arXiv 2406.04093.
    """

    def __init__(self, d_in: int, d_sae: int, *, k: int, seed: int = 0):
        super().__init__(d_in, d_sae, seed=seed)
        require_positive_int(k=k)
        if k > d_sae:
            raise ValueError(f"k must be at most d_sae={d_sae}, but {k} came.")
        self.k = k

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        feature_acts = super().encode(x)
        strongest = feature_acts.topk(self.k, dim=-1)
        return torch.zeros_like(feature_acts).scatter(-1, strongest.indices, strongest.values)


def save_sae(sae: SparseAutoencoder, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the weights to a safetensors file: numbers only, no code.

    Raises FileExistsError rather than replace a file, unless overwrite=True.
    """
    if Path(path).exists() and not overwrite:
        raise FileExistsError(f"{path} exists already; pass overwrite=True to replace it.")
    weights = {name: w.detach().cpu().contiguous() for name, w in sae.state_dict().items()}
    save_file(weights, path, metadata={"k": str(getattr(sae, "k", ""))})


def load_sae(path: str | Path) -> SparseAutoencoder:
    """Read what `save_sae` wrote. Reading runs no code from the file.

    Raises FileNotFoundError if there is no such file, ValueError if it holds no SAE.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            k = (file.metadata() or {}).get("k", "")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if sorted(weights) != ["W_dec", "W_enc", "b_dec", "b_enc"] or weights["W_dec"].ndim != 2:
        raise ValueError(f"{path} holds {sorted(weights)}, not the four weights of an SAE.")
    d_sae, d_in = weights["W_dec"].shape
    sae = TopKSparseAutoencoder(d_in, d_sae, k=int(k)) if k else SparseAutoencoder(d_in, d_sae)
    try:
        sae.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} holds weights whose shapes do not fit together.") from error
    return sae

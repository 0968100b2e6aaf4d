"""SAEs for the tests: with weights of any kind; and what a reader might write, a class each."""

import torch
from torch import nn

from sae_lib import SAELoss, SparseAutoencoder, TopKSparseAutoencoder


def with_weights(sae, **weights):
    """The SAE with the named weights replaced."""
    with torch.no_grad():
        for name, values in weights.items():
            getattr(sae, name).copy_(torch.as_tensor(values))
    return sae


def in_general_position(sae):
    """The SAE with no weight left at its initial value, and decoder rows of any length."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in sae.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return sae


def same_weights(a, b) -> bool:
    return all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))


def frozen_decoder(d_in, d_sae, *, seed):
    sae = SparseAutoencoder(d_in, d_sae, seed=seed)
    sae.W_dec.requires_grad_(False)
    return sae


class BatchTopK(TopKSparseAutoencoder):
    """Keep the k strongest latents per input on average: k times the batch in all.

    Bussmann et al. 2024, arXiv 2412.06410.
    """

    def encode(self, x):
        latent_acts = SparseAutoencoder.encode(self, x)
        weakest_kept = latent_acts.flatten().topk(self.k * len(x)).values[-1]
        return latent_acts * (latent_acts >= weakest_kept)


class Counting(SparseAutoencoder):
    """A module within, axes counted from the front, and a buffer that changes in place."""

    def __init__(self, d_in: int, d_sae: int, *, seed: int = 0):
        super().__init__(d_in, d_sae, seed=seed)
        self.norm = nn.LayerNorm(d_in)
        self.register_buffer("fired", torch.zeros(d_sae))

    def encode(self, x):
        latent_acts = super().encode(x)
        self.fired += (latent_acts > 0).sum(dim=0)
        return latent_acts

    def loss(self, x, l1_coefficient):
        error = (self.norm(x) - self(x)[0]).square().sum(dim=(0, 1)) / len(x)
        return SAELoss(error, error, 0 * error)

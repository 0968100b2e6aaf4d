"""SAEs for the tests: with weights of any kind; and what a reader might write, a class each."""

import torch
from torch import nn

from sae_lib import SAELoss, SparseAutoencoder, TopKSparseAutoencoder, sae_loss


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


class Gated(SparseAutoencoder):
    """A weight of its own: a threshold for each latent, below which it hardly fires."""

    def __init__(self, d_in: int, d_sae: int, *, seed: int = 0):
        super().__init__(d_in, d_sae, seed=seed)
        self.threshold = nn.Parameter(torch.full((d_sae,), 0.2))

    def encode(self, x):
        z = super().encode(x)
        return z * torch.sigmoid((z - self.threshold) / 0.05)


class BatchTopK(TopKSparseAutoencoder):
    """Keep the k strongest latents per input on average: k times the batch in all.

    Bussmann et al. 2024, arXiv 2412.06410.
    """

    def encode(self, x):
        latent_acts = SparseAutoencoder.encode(self, x)
        n_kept = self.k * x.shape[-2]
        weakest_kept = latent_acts.flatten(-2).topk(n_kept, dim=-1).values[..., -1:, None]
        return latent_acts * (latent_acts >= weakest_kept)


class Keeping(SparseAutoencoder):
    """Keeps its last activations and loss, with their graph; and counts its calls."""

    pre, last, n_calls = None, None, 0

    def encode(self, x):
        self.pre = x @ self.W_enc + self.b_enc
        return torch.relu(self.pre)

    def loss(self, x, l1_coefficient):
        self.n_calls += 1
        self.last = super().loss(x, l1_coefficient * self.n_calls)
        return self.last


class Scaled(SparseAutoencoder):
    """Buffers: a vector that is learned from the data, a number, and a whole number.

    Each latent's price falls with how much it was active so far.
    """

    def __init__(self, d_in: int, d_sae: int, *, seed: int = 0):
        super().__init__(d_in, d_sae, seed=seed)
        self.register_buffer("activity", torch.zeros(d_sae))
        self.register_buffer("size", torch.tensor(1.0))
        self.register_buffer("n_batches", torch.tensor(0))

    def loss(self, x, l1_coefficient):
        x_hat, latent_acts = self(x / self.size)
        mean = latent_acts.detach().mean(dim=-2, keepdim=True)
        self.activity = 0.9 * self.activity + 0.1 * mean.view_as(self.activity)
        self.n_batches += 1
        return sae_loss(x, x_hat * self.size, latent_acts / (1 + self.activity), l1_coefficient)


# Right alone, but in a stack they mix the SAEs:


class FlatBatchTopK(BatchTopK):
    """BatchTopK as most would write it first: the strongest of all SAEs together."""

    def encode(self, x):
        latent_acts = SparseAutoencoder.encode(self, x)
        n_kept = self.k * latent_acts[..., 0].numel()
        return latent_acts * (latent_acts >= latent_acts.flatten().topk(n_kept).values[-1])


class FloatMean(SparseAutoencoder):
    """Keeps one float that comes from the data: a stack would have one for all."""

    activity = 1.0

    def loss(self, x, l1_coefficient):
        loss = super().loss(x, l1_coefficient * self.activity)
        self.activity = loss.reconstruction.mean().item()
        return loss


class FirstAxis(SparseAutoencoder):
    """Divides by len(x), which is the batch alone and the number of SAEs in a stack."""

    def loss(self, x, l1_coefficient):
        error = (x - self(x)[0]).square().sum(dim=(-2, -1)) / len(x)
        return SAELoss(error, error, 0 * error)

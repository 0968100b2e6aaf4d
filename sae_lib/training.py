"""Training: one loop, its batches, its price and its history."""

import math
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn.functional import embedding
from tqdm import tqdm

from sae_lib.guards import finite, with_gradients
from sae_lib.metrics import fires
from sae_lib.sae import SAELoss, SparseAutoencoder

# The second recipe, for `train_sae(..., **FALLING_PRICE)`: a high price finds the directions
# fast, a low one polishes them. Batches of 128, because a stack of 64 then fits the processor's
# cache; a faster β₂, because gradients shrink with the price and Adam must forget the large ones.
FALLING_PRICE = dict(l1_start=0.03, n_steps=2_500, batch_size=128, lr=5e-2, betas=(0.9, 0.95))


@with_gradients
def train_sae(
    sae: SparseAutoencoder,
    activations: torch.Tensor,
    *,
    l1_coefficient: float = 1e-3,
    l1_start: float | None = None,
    n_steps: int = 8_000,
    batch_size: int = 256,
    lr: float = 3e-2,
    betas: tuple[float, float] = (0.9, 0.98),
    normalize_decoder: bool = True,
    seed: int = 0,
    n_logged: int = 60,
) -> "TrainingHistory":
    """Train one SAE, in place, on a pool of activations (n_samples, d_in).

    Adam; the learning rate falls to zero along a cosine. The defaults are made for activations
    about half a unit long: a tenth of that, and nothing is found (docs/evidence.md).
    l1_start: let λ fall from there to l1_coefficient, exponentially, over the first 60 %.
    Raises ValueError or TypeError if the activations do not fit; FloatingPointError if the loss
    of a logged batch (the last is one) is not finite.
    """
    optimizer = torch.optim.Adam(sae.parameters(), lr, betas, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    prices = price_schedule(l1_coefficient, l1_start, n_steps)
    history = TrainingHistory(n_steps, n_logged)
    for step, x in enumerate(minibatches(sae, activations, batch_size, n_steps, seed)):
        loss = sae.loss(x, prices[step])
        history.log(step, sae, x, loss)
        optimizer.zero_grad()
        loss.total.sum().backward()  # of one SAE there is one total, of a stack one each
        optimizer.step()
        schedule.step()
        if normalize_decoder:  # after the step, which changed the lengths
            sae.normalize_decoder_()
    return history


class TrainingHistory:
    """What about n_logged batches showed, evenly spaced on a log axis, the first and last too.

    Lists with one entry for each, taken before that step's update: step; reconstruction,
    sparsity (λ included) and l0 (latents that fire per input), each a number; W_dec
    (d_sae, d_in). Of a stack of n SAEs there are n numbers, and W_dec has n on its first axis.
    """

    def __init__(self, n_steps: int, n_logged: int):
        spaced = np.geomspace(1, n_steps, min(n_logged, n_steps)).round().astype(int) - 1
        self.steps_to_log = {n_steps - 1, *spaced.tolist()}
        self.step, self.reconstruction, self.sparsity, self.l0, self.W_dec = [], [], [], [], []

    def log(self, step: int, sae: SparseAutoencoder, x: torch.Tensor, loss: SAELoss) -> None:
        """Keep this batch, if it is one of those to be kept; `encode` is called for it again."""
        if step not in self.steps_to_log:
            return
        if not torch.isfinite(loss.total).all():
            raise FloatingPointError("Training ran away to NaN or infinity; try a smaller lr.")
        self.step.append(step)
        self.reconstruction.append(loss.reconstruction.tolist())
        self.sparsity.append(torch.as_tensor(loss.sparsity).tolist())
        self.l0.append(fires(sae.encode(x)).sum(dim=-1).float().mean(dim=-1).tolist())
        self.W_dec.append(sae.W_dec.detach().cpu().clone())


def minibatches(
    sae: SparseAutoencoder, activations, batch_size: int, n_steps: int, seed: int | Sequence[int]
) -> Iterator[torch.Tensor]:
    """n_steps random batches (batch_size, d_in), drawn with replacement from the pool.

    They come in the SAE's dtype, on its device. For a stack give a list of seeds, one each, and
    one pool for all (n_samples, d_in) or one each (n, n_samples, d_in): (n, batch_size, d_in).
    """
    pool = fitting(sae, activations)
    is_stack = sae.W_dec.ndim == 3
    generators = [torch.Generator().manual_seed(int(s)) for s in (seed if is_stack else [seed])]
    n_samples, d_in = pool.shape[-2:]
    first_row = torch.arange(len(generators))[:, None] * (n_samples if pool.ndim == 3 else 0)
    pool = pool.reshape(-1, d_in)
    # the rows of a hundred batches at once, which is cheaper; of fewer, if that were over 32 MB
    at_once = max(1, min(100, 4_000_000 // (batch_size * len(generators))))
    for step in tqdm(range(n_steps), desc="training", file=sys.stdout, delay=0.5):
        if (i := step % at_once) == 0:
            shape = (at_once, batch_size)
            drawn = [torch.randint(n_samples, shape, generator=g) for g in generators]
            drawn = (torch.stack(drawn, dim=1) + first_row).to(pool.device)  # (_, n, batch_size)
        yield embedding(drawn[i] if is_stack else drawn[i, 0], pool)  # pool[...], in half the time


def fitting(sae: SparseAutoencoder, activations: torch.Tensor) -> torch.Tensor:
    """The activations in the SAE's own dtype and on its device; raise if they do not fit it."""
    if not isinstance(getattr(sae, "W_dec", None), torch.Tensor):
        raise TypeError(f"sae must be a SparseAutoencoder, but a {type(sae).__name__} came.")
    activations = finite("activations", activations)
    n, d_in = len(sae.W_dec), sae.W_dec.shape[-1]
    one_each = sae.W_dec.ndim == activations.ndim == 3 and len(activations) == n
    if activations.shape[-1] != d_in or not (activations.ndim == 2 or one_each):
        wanted = f"(n_samples, {d_in})" + (f" or ({n}, ...)" if sae.W_dec.ndim == 3 else "")
        came = tuple(activations.shape)
        raise ValueError(f"activations must have shape {wanted}, but {came} came.")
    return activations.to(sae.W_dec)


def price_schedule(l1_coefficient: float, l1_start: float | None, n_steps: int) -> list[float]:
    """λ at every step: constant, or falling from l1_start over the first 60 % of the steps."""
    if np.ndim(l1_coefficient) or not 0 <= l1_coefficient < math.inf:
        raise ValueError(
            f"l1_coefficient must be one finite number from 0 up; {l1_coefficient} came."
        )
    if l1_start is None:
        return [l1_coefficient] * n_steps
    if not (0 < l1_start < math.inf and l1_coefficient > 0):
        raise ValueError("A price that falls needs a finite l1_start and l1_coefficient above 0.")
    left = [max(0.0, 1 - step / (0.6 * n_steps)) for step in range(n_steps)]  # from 1 to 0
    return [l1_coefficient * (l1_start / l1_coefficient) ** share for share in left]

"""Training: one loop, its batches, its price and its history."""

import sys
from collections.abc import Iterator

import numpy as np
import torch
from tqdm import tqdm

from sae_lib.checks import finite, real, whole
from sae_lib.metrics import fires
from sae_lib.sae import SAELoss, SparseAutoencoder

# The second recipe, for `train_sae(..., **FALLING_PRICE)`: a high price finds the directions
# fast, a low one polishes them. Batches of 128, because a stack of 64 then fits the processor's
# cache; a faster β₂, because gradients shrink with the price and Adam must forget the large ones.
FALLING_PRICE = dict(l1_start=0.03, n_steps=2_500, batch_size=128, lr=5e-2, betas=(0.9, 0.95))


class TrainingHistory:
    """One training: the SAE, λ at every step, and what about n_logged of the batches showed.

    sae, prices, batch_size: what was trained, in place, and how. Lists with an entry for each
    logged batch (evenly spaced on a log axis, the first and last too), taken before its update:
    step; reconstruction, sparsity (λ included) and l0 (latents that fire per input), each a
    number; W_dec (d_sae, d_in).
    """

    def __init__(self, sae: SparseAutoencoder, prices: list[float], batch_size: int, n_logged: int):
        self.sae, self.prices, self.batch_size = sae, prices, batch_size
        n_steps = len(prices)
        n_logged = min(whole("n_logged", n_logged, 1, 10**7), n_steps)
        spaced = np.geomspace(1, n_steps, n_logged).round().astype(int) - 1
        self.steps_to_log = {n_steps - 1, *spaced.tolist()}
        self.step, self.reconstruction, self.sparsity, self.l0, self.W_dec = [], [], [], [], []

    def log(self, step: int, x: torch.Tensor, loss: SAELoss) -> None:
        """Keep this batch, if it is one of those to be kept; `encode` is called for it again."""
        if step not in self.steps_to_log:
            return
        if not torch.isfinite(loss.total):
            raise FloatingPointError("Training ran away to NaN or infinity; try a smaller lr.")
        self.step.append(step)
        self.reconstruction.append(loss.reconstruction.tolist())
        self.sparsity.append(loss.sparsity.tolist())
        self.l0.append(fires(self.sae.encode(x)).sum(dim=-1).float().mean(dim=-1).tolist())
        self.W_dec.append(self.sae.W_dec.detach().cpu().clone())


def train_sae(
    sae: SparseAutoencoder, activations: torch.Tensor, *,
    l1_coefficient: float = 1e-3, l1_start: float | None = None,
    n_steps: int = 8_000, batch_size: int = 256, lr: float = 3e-2,
    betas: tuple[float, float] = (0.9, 0.98), normalize_decoder: bool = True,
    seed: int = 0, n_logged: int = 60,
) -> TrainingHistory:  # fmt: skip
    """Train one SAE, in place, on a pool of activations (n_samples, d_in).

    AdamW, with a learning rate that falls to zero along a cosine. The defaults are made for
    activations about half a unit long: a tenth of that, and nothing is found (docs/evidence.md).
    l1_start: let λ fall from there to l1_coefficient, exponentially, over the first 60 %.
    An SAE this small trains fastest on one thread: call torch.set_num_threads(1) before.
    Raises ValueError or TypeError if the activations or a setting cannot work;
    FloatingPointError if the loss of a logged batch (the last is one) is not finite.
    """
    pool = training_data(activations, sae)
    prices = price_schedule(l1_coefficient, l1_start, n_steps)
    history = TrainingHistory(sae, prices, batch_size, n_logged)
    # weight decay, which pulls all weights towards zero, is off: the price is pull enough
    optimizer = torch.optim.AdamW(sae.parameters(), lr, betas, weight_decay=0, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for step, x in enumerate(minibatches(pool, batch_size, n_steps, seed)):
        loss = sae.loss(x, prices[step])
        history.log(step, x, loss)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        schedule.step()
        if normalize_decoder:  # after the step, which changed the lengths
            sae.normalize_decoder_()
    return history


def training_data(activations: torch.Tensor, sae: SparseAutoencoder) -> torch.Tensor:
    """The activations in the SAE's dtype and on its device; raise if it cannot be trained on them.

    (A stack of SAEs has one axis more, and so have its activations.)
    """
    if not isinstance(getattr(sae, "W_dec", None), torch.Tensor):
        raise TypeError(f"sae: expected a SparseAutoencoder, got a {type(sae).__name__}.")
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise RuntimeError("Train outside torch.autocast: half precision is too coarse for this.")
    activations = finite("activations", activations)
    d_in, got = sae.W_dec.shape[-1], tuple(activations.shape)
    if activations.ndim != sae.W_dec.ndim or got[-1] != d_in:
        raise ValueError(f"activations: expected the shape (n_samples, {d_in}), got {got}.")
    return finite(f"activations in {sae.W_dec.dtype}", activations.to(sae.W_dec))


def minibatches(
    pool: torch.Tensor, batch_size: int, n_steps: int, seed: int
) -> Iterator[torch.Tensor]:
    """n_steps random batches (batch_size, d_in), drawn with replacement from the pool's rows."""
    rng = torch.Generator().manual_seed(whole("seed", seed, 0, 2**63 - 1))
    whole("batch_size", batch_size, 1, 10**6)
    for _ in tqdm(range(n_steps), desc="training", file=sys.stdout, delay=0.5):
        rows = torch.randint(len(pool), (batch_size,), generator=rng, device="cpu")
        yield pool.index_select(0, rows.to(pool.device))


def price_schedule(l1_coefficient: float, l1_start: float | None, n_steps: int) -> list[float]:
    """λ at every step: constant, or falling from l1_start over the first 60 % of the steps."""
    n_steps = whole("n_steps", n_steps, 1, 10**7)
    end = real("l1_coefficient", l1_coefficient, 0, 1e6)  # far above, the gradient overflows
    if l1_start is None:
        return [end] * n_steps
    start, end = real("l1_start", l1_start, 1e-30, 1e6), real("l1_coefficient", end, 1e-30, 1e6)
    left = [max(0.0, 1 - step / (0.6 * n_steps)) for step in range(n_steps)]  # from 1 to 0
    return [end * (start / end) ** share for share in left]

"""Training: one loop. `train_sae` gives it one SAE, `train_saes` a stack of them."""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import embedding
from tqdm import tqdm

from sae_lib.metrics import fires
from sae_lib.sae import SAELoss, SparseAutoencoder, settings_of
from sae_lib.stacking import refuse_plain_tensors, stack_modules, unstack_
from sae_lib.validation import (
    float_tensor,
    require_list,
    require_non_negative,
    require_one_each,
    require_positive_int,
    require_seed,
)

# The second recipe, for `train_sae(..., **FALLING_PRICE)`: a high price finds the directions
# fast, a low one polishes them. It failed on no seed of those in the README; batches of 128,
# because a stack of 64 then fits the processor's cache.
FALLING_PRICE = {
    "l1_start": 0.03,
    "n_steps": 2_500,
    "batch_size": 128,
    "lr": 5e-2,
    "betas": (0.9, 0.95),
}


class TrainingHistory(NamedTuple):
    """What the logged batches showed, before that step's update. One entry per logged step.

    step, reconstruction, sparsity (λ included): (n_logged,). rate: the share of the batch on
    which each latent fires, (n_logged, d_sae). W_dec: (n_logged, d_sae, d_in).
    """

    step: torch.Tensor
    reconstruction: torch.Tensor
    sparsity: torch.Tensor
    rate: torch.Tensor
    W_dec: torch.Tensor

    @property
    def l0(self) -> torch.Tensor:
        """How many latents fire on an input, on average: (n_logged,)."""
        return self.rate.sum(dim=-1)


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
) -> TrainingHistory:
    """Train one SAE, in place, on a pool of activations (n_samples, d_in).

    AdamW without weight decay; the learning rate falls to zero along a cosine. The defaults
    are the cheapest found that recover all ten features on every seed (README, "Evidence").
    l1_start: let λ fall from there to l1_coefficient, exponentially, over the first 60 %.
    Raises ValueError or TypeError if the pool is empty, not finite or of another width.
    """
    activations = check_training_input(
        sae, activations, l1_coefficient, l1_start, n_steps, batch_size, lr, seed, n_logged
    )
    trained = [p for p in sae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr, betas, weight_decay=0.0, fused=True)
    log, to_log = [], steps_to_log(n_steps, n_logged)
    batches = minibatches(activations, batch_size, n_steps, seed)
    for step, x in enumerate(tqdm(batches, total=n_steps, desc="training")):
        price = price_at(step, n_steps, l1_coefficient, l1_start)
        loss = sae.loss(x, price)
        if step in to_log:
            log.append(log_entry(step, sae, x, loss))
        sae.zero_grad()
        loss.total.sum().backward()
        optimizer.param_groups[0]["lr"] = lr * cosine_schedule(step, n_steps)
        optimizer.step()
        if normalize_decoder and sae.W_dec.requires_grad:  # after the step, which changed it
            sae.normalize_decoder_()
    return history_of(log, sae)


def train_saes(
    saes: Sequence[SparseAutoencoder],
    activations: torch.Tensor,
    *,
    l1_coefficient: float | Sequence[float] = 1e-3,
    seeds: Sequence[int] | None = None,
    batch_size: int = 256,
    **settings,
) -> list[TrainingHistory]:
    """`train_sae` for many SAEs of one class and shape at once, in place; a history each.

    activations: one pool (n_samples, d_in) for all, or one each (n_saes, n_samples, d_in).
    l1_coefficient: one for all, or one each. seeds: one each; seed 0 for all by default.
    settings: the others of `train_sae`. The SAEs' weights are stacked on a leading axis, over
    which the class's own lines broadcast, so that a stack goes through the same loop. SAE i sees
    the batches that train_sae would draw for it, and ends where it would end.
    Raises ValueError, by name, for a class whose lines do not broadcast.
    """
    saes = require_list("saes", saes)
    n = len(saes)
    require_positive_int(batch_size=batch_size)
    seeds = require_one_each("seeds", [0] * n if seeds is None else seeds, n)
    require_seed(**{f"seeds[{i}]": seed for i, seed in enumerate(seeds)})
    if hasattr(l1_coefficient, "__len__"):
        l1_coefficient = require_one_each("l1_coefficient", l1_coefficient, n)
    else:
        l1_coefficient = [l1_coefficient] * n
    require_non_negative(**{f"l1_coefficient[{i}]": c for i, c in enumerate(l1_coefficient)})
    stack = stack_modules(saes)
    prices = torch.tensor(l1_coefficient, dtype=stack.W_dec.dtype, device=stack.W_dec.device)
    activations = check_activations(stack, activations)
    first_batch = next(minibatches(activations, batch_size, 1, seeds))
    require_broadcasting(stack, saes, first_batch, prices)
    history = train_sae(
        stack, activations, l1_coefficient=prices, seed=seeds, batch_size=batch_size, **settings
    )
    unstack_(stack, saes)
    step, *fields = history
    return [TrainingHistory(step, *(field[:, i] for field in fields)) for i in range(n)]


def require_broadcasting(
    stack: SparseAutoencoder,
    saes: Sequence[SparseAutoencoder],
    x: torch.Tensor,
    prices: torch.Tensor,
) -> None:
    """Raise unless a stack computes, for each SAE, what the SAE computes alone.

    A class that counts axes from the front would mix up the SAEs of a stack, in silence. Each
    SAE is shown data of another size, so that a mixture shows.
    """
    kind = type(stack).__name__
    x = x * torch.arange(1, len(saes) + 1).view(-1, 1, 1).to(x)
    try:
        together = look_twice(stack, x, prices)
    except RuntimeError as error:
        raise ValueError(f"{kind} does not broadcast over a leading axis: {error}") from error
    for i in (0, len(saes) - 1):
        for name, alone in look_twice(saes[i], x[i], prices[i]).items():
            if not is_entry(i, together[name], alone):
                raise ValueError(
                    f"{kind} has another {name} in a stack than alone: write its lines with axes "
                    "counted from the end (dim=-1) and keep what it learns from the data in "
                    "buffers, or train its SAEs one by one with train_sae."
                )


def look_twice(sae: SparseAutoencoder, x: torch.Tensor, price: torch.Tensor) -> dict:
    """What a copy of the SAE holds after two looks at x: loss, gradients, weights, settings.

    Two, because a loss may keep something for the next; a copy, because looking must change
    nothing; in double precision, so that rounding decides no tie.
    """
    sae, x, price = copy.deepcopy(sae).cpu().double(), x.cpu().double(), price.cpu().double()
    sae.loss(x, price)
    loss = sae.loss(x, price).total
    if loss.requires_grad:  # or everything is frozen
        loss.sum().backward()
    refuse_plain_tensors(sae)
    held = {f"gradient of {n}": p.grad for n, p in sae.named_parameters()}
    sae.normalize_decoder_()
    held |= {f"normalised {n}": p.detach() for n, p in sae.named_parameters()}
    return {"loss": loss.detach(), **held, **dict(sae.named_buffers()), **settings_of(sae)}


def is_entry(i: int, together, alone) -> bool:
    """Whether `alone` is entry i of a stack's tensor; or the same, if it is no tensor."""
    if not isinstance(alone, torch.Tensor):
        return together == alone
    if together.ndim == 0 or together[i].numel() != alone.numel():
        return False
    return torch.allclose(together[i].flatten(), alone.flatten(), rtol=1e-4, atol=1e-6)


def check_activations(sae: SparseAutoencoder, activations: torch.Tensor) -> torch.Tensor:
    """The activations in the SAE's own dtype and on its device; raise if they do not fit it."""
    if not isinstance(getattr(sae, "W_dec", None), torch.Tensor):
        raise TypeError(f"sae must be a SparseAutoencoder, but a {type(sae).__name__} came.")
    activations = float_tensor("activations", activations)
    if activations.ndim not in (2, sae.W_dec.ndim) or activations.shape[-1] != sae.W_dec.shape[-1]:
        wanted = f"(n_samples, {sae.W_dec.shape[-1]})"
        wanted += f" or ({len(sae.W_dec)}, n_samples, ...)" if sae.W_dec.ndim == 3 else ""
        raise ValueError(
            f"activations must have shape {wanted}, but {tuple(activations.shape)} came."
        )
    if activations.ndim == 3 and len(activations) != len(sae.W_dec):
        raise ValueError(
            f"activations must be one pool or {len(sae.W_dec)}, but {len(activations)} came."
        )
    return activations.to(sae.W_dec)


def check_training_input(
    sae, activations, l1_coefficient, l1_start, n_steps, batch_size, lr, seed, n_logged
) -> torch.Tensor:
    """The activations, ready for the SAE; raise if anything is off."""
    activations = check_activations(sae, activations)
    is_stack = sae.W_dec.ndim == 3
    if not (is_stack and isinstance(l1_coefficient, torch.Tensor)):  # or train_saes checked them
        require_non_negative(l1_coefficient=l1_coefficient)
    require_non_negative(lr=lr)
    if l1_start is not None:
        require_non_negative(l1_start=l1_start)
        if l1_start == 0 or not torch.as_tensor(l1_coefficient).gt(0).all():
            raise ValueError("A price that falls needs l1_start and l1_coefficient above 0.")
    require_positive_int(n_steps=n_steps, batch_size=batch_size, n_logged=n_logged)
    if not (is_stack and isinstance(seed, list)):
        require_seed(seed=seed)
    return activations


def minibatches(
    activations: torch.Tensor, batch_size: int, n_steps: int, seed: int | list[int]
) -> Iterator[torch.Tensor]:
    """n_steps random batches (batch_size, d_in), drawn with replacement from the pool.

    With a list of seeds, for a stack: (n, batch_size, d_in), each seed from its own pool if
    the pool has a leading axis too. Batches are drawn a hundred at a time, since one look-up is
    cheaper than a hundred.
    """
    seeds = seed if isinstance(seed, list) else [seed]
    generators = [torch.Generator().manual_seed(int(one)) for one in seeds]
    n_samples = activations.shape[-2]
    pool = activations.reshape(-1, activations.shape[-1])
    first_row = torch.zeros(len(seeds), 1, dtype=torch.long)
    if activations.ndim == 3:
        first_row = torch.arange(len(seeds))[:, None] * n_samples
    for start in range(0, n_steps, 100):
        shape = (min(100, n_steps - start), batch_size)
        rows = [torch.randint(n_samples, shape, generator=g) for g in generators]
        rows = torch.stack(rows, dim=1) + first_row  # (steps, n, batch_size)
        if not isinstance(seed, list):
            rows = rows[:, 0]
        yield from embedding(rows.to(pool.device), pool)  # pool[rows], in half the time


def cosine_schedule(step: int, n_steps: int) -> float:
    """From 1 at the first step down to 0 after the last, along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / n_steps))


def price_at(
    step: int, n_steps: int, l1_coefficient: float, l1_start: float | None
) -> float | torch.Tensor:
    """λ at this step: constant, or falling from l1_start over the first 60 % of the steps."""
    if l1_start is None:
        return l1_coefficient
    left = max(0.0, 1 - step / (0.6 * n_steps))  # 1 at first, 0 from 60 % on
    return l1_coefficient * (l1_start / l1_coefficient) ** left


def steps_to_log(n_steps: int, n_logged: int) -> set[int]:
    """About n_logged steps, evenly spaced on a log axis, the first and the last among them."""
    last, gaps = n_steps - 1, max(n_logged - 1, 1)
    return {0, last, *(round(last ** (i / gaps)) for i in range(n_logged) if last > 0)}


@torch.no_grad()
def log_entry(step: int, sae: SparseAutoencoder, x: torch.Tensor, loss: SAELoss) -> tuple:
    """One entry of the history. A copy is asked what fires: looking must not change training."""
    rate = fires(copy.deepcopy(sae).encode(x)).float().mean(dim=-2)
    entry = (loss.reconstruction, loss.sparsity, rate, sae.W_dec)
    return torch.tensor(step), *(value.detach().cpu().clone() for value in entry)


def history_of(log: list[tuple], sae: SparseAutoencoder) -> TrainingHistory:
    """The log, field by field. Raises FloatingPointError if the training has run away."""
    if not all(torch.isfinite(weight).all() for weight in sae.parameters()):
        raise FloatingPointError("Training ran away to NaN or infinity; try a smaller lr.")
    return TrainingHistory(*map(torch.stack, zip(*log, strict=True)))

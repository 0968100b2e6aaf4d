"""Training: one SAE in a plain loop, or many at once with torch.func."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from sae_lib.sae import SAELoss, SparseAutoencoder, sae_loss
from sae_lib.stacking import Stack, stacked_gradients
from sae_lib.validation import (
    require_finite_matrix,
    require_float_tensor,
    require_non_negative,
    require_positive_int,
)


class TrainingHistory(NamedTuple):
    """What the logged batches showed, before that step's update. One entry per logged step.

    step, reconstruction, l1 (λ included), l0: (n_logged,).  W_dec: (n_logged, d_sae, d_in).
    """

    step: torch.Tensor
    reconstruction: torch.Tensor
    l1: torch.Tensor
    l0: torch.Tensor
    W_dec: torch.Tensor


def log_entry(
    step: int, loss: SAELoss, feature_acts: torch.Tensor, W_dec: torch.Tensor
) -> TrainingHistory:
    """One entry of the history, for one SAE or for a stack of them."""
    l0 = (feature_acts != 0).sum(dim=-1).float().mean(dim=-1)
    fields = (loss.reconstruction, loss.l1, l0, W_dec)
    return TrainingHistory(torch.tensor(step), *(x.detach().cpu().clone() for x in fields))


def steps_to_log(n_steps: int, n_logged: int) -> set[int]:
    """About n_logged steps, evenly spaced on a log axis, the first and the last among them."""
    last, gaps = n_steps - 1, max(n_logged - 1, 1)
    return {0, last, *(round(last ** (i / gaps)) for i in range(n_logged) if last > 0)}


def minibatches(
    activations: torch.Tensor, batch_size: int, n_steps: int, seed: int
) -> Iterator[torch.Tensor]:
    """n_steps random batches (batch_size, d_in), drawn with replacement from the pool."""
    for block in minibatch_blocks(activations, batch_size, n_steps, seed):
        yield from block


def minibatch_blocks(
    activations: torch.Tensor, batch_size: int, n_steps: int, seed: int
) -> Iterator[torch.Tensor]:
    """The same, up to a hundred at a time, since one look-up is cheaper than a hundred."""
    rng = torch.Generator().manual_seed(seed)
    for start in range(0, n_steps, 100):
        shape = (min(100, n_steps - start), batch_size)
        rows = torch.randint(len(activations), shape, generator=rng)
        yield activations[rows.to(activations.device)]


def cosine_schedule(step: int, n_steps: int) -> float:
    """From 1 at the first step down to 0 after the last, along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / n_steps))


def train_sae(
    sae: SparseAutoencoder,
    activations: torch.Tensor,
    *,
    l1_coefficient: float = 1e-3,
    n_steps: int = 5_000,
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
    Raises ValueError or TypeError if the pool is empty, not finite or of another width.
    """
    require_finite_matrix("activations", activations, n_columns=sae.W_enc.shape[0])
    require_non_negative(l1_coefficient=l1_coefficient, lr=lr)
    require_positive_int(n_steps=n_steps, batch_size=batch_size, n_logged=n_logged)
    activations = activations.detach()  # if they were collected without torch.no_grad()
    trained = [p for p in sae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr, betas, weight_decay=0.0, fused=True)
    to_log, log = steps_to_log(n_steps, n_logged), []
    batches = minibatches(activations, batch_size, n_steps, seed)
    for step, x in enumerate(tqdm(batches, total=n_steps, desc="training")):
        x_hat, feature_acts = sae(x)
        loss = sae_loss(x, x_hat, feature_acts, l1_coefficient)
        if step in to_log:
            log.append(log_entry(step, loss, feature_acts, sae.W_dec))
        sae.zero_grad()
        loss.total.backward()
        optimizer.param_groups[0]["lr"] = lr * cosine_schedule(step, n_steps)
        optimizer.step()
        if normalize_decoder and sae.W_dec.requires_grad:  # after the step, which changed it
            sae.normalize_decoder_()
    return TrainingHistory(*map(torch.stack, zip(*log, strict=True)))


def train_saes(
    saes: Sequence[SparseAutoencoder],
    activations: torch.Tensor,
    *,
    l1_coefficient: float | Sequence[float] = 1e-3,
    n_steps: int = 5_000,
    batch_size: int = 256,
    lr: float = 3e-2,
    betas: tuple[float, float] = (0.9, 0.98),
    normalize_decoder: bool = True,
    seeds: Sequence[int] | None = None,
    n_logged: int = 60,
    loss: Callable[..., SAELoss] = sae_loss,
) -> list[TrainingHistory]:
    """`train_sae` for many SAEs of one shape in a single loop, in place; a history each.

    activations: one pool (n_samples, d_in) for all, or one each (n_saes, n_samples, d_in).
    l1_coefficient: one for all, or one each. seeds: one each; seed 0 for all by default.
    The weights are stacked, and torch.func.vmap runs the SAEs' own class and loss over them:
    SAE i sees the batches that train_sae would draw for it, and ends where it would end.
    """
    n_saes = len(saes)
    require_positive_int(n_saes=n_saes, n_steps=n_steps, batch_size=batch_size, n_logged=n_logged)
    require_float_tensor("activations", activations)
    if activations.ndim not in (2, 3):
        raise ValueError(
            "activations must have shape (n_samples, d_in) or (n_saes, n_samples, d_in), "
            f"but {tuple(activations.shape)} came."
        )
    require_finite_matrix("activations", activations.flatten(0, -2), saes[0].W_enc.shape[0])
    activations = activations.detach()
    pools = activations if activations.ndim == 3 else activations.expand(n_saes, -1, -1)
    one_for_all = not isinstance(l1_coefficient, Sequence)
    coefficients = [l1_coefficient] * n_saes if one_for_all else l1_coefficient
    seeds = [0] * n_saes if seeds is None else seeds
    for name, given in (("pools", pools), ("λs", coefficients), ("seeds", seeds)):
        if len(given) != n_saes:
            raise ValueError(f"{n_saes} SAEs need as many {name}, but {len(given)} came.")
    for coefficient in coefficients:
        require_non_negative(l1_coefficient=coefficient, lr=lr)

    stack = Stack(saes)
    stack.skeleton.W_dec = nn.Parameter(stack.params["W_dec"])  # so that it normalises the stack
    coefficients = torch.tensor(coefficients, dtype=pools.dtype, device=pools.device)

    def loss_of_one(params, x, coefficient):
        x_hat, feature_acts = stack.call_one(params, x)
        terms = loss(x, x_hat, feature_acts, coefficient)
        return terms.total, (terms, feature_acts)

    gradients_of = stacked_gradients(loss_of_one)
    optimizer = torch.optim.AdamW(stack.trained(), lr, betas, weight_decay=0.0, fused=True)
    to_log, log = steps_to_log(n_steps, n_logged), []
    blocks = [
        minibatch_blocks(pool, batch_size, n_steps, seed)
        for pool, seed in zip(pools, seeds, strict=True)
    ]
    batches = (xs for block in zip(*blocks, strict=True) for xs in torch.stack(block, dim=1))
    for step, xs in enumerate(tqdm(batches, total=n_steps, desc=f"{n_saes} SAEs")):
        gradients, (losses, feature_acts) = gradients_of(stack.params, xs, coefficients)
        if step in to_log:
            log.append(log_entry(step, losses, feature_acts, stack.params["W_dec"]))
        stack.set_gradients(gradients)
        optimizer.param_groups[0]["lr"] = lr * cosine_schedule(step, n_steps)
        optimizer.step()
        if normalize_decoder and saes[0].W_dec.requires_grad:
            stack.skeleton.normalize_decoder_()
    stack.copy_back()
    steps, *measured = map(torch.stack, zip(*log, strict=True))
    return [TrainingHistory(steps, *(field[:, i] for field in measured)) for i in range(n_saes)]

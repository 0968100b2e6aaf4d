"""Many at once: a stack of modules is one module whose tensors have a leading axis."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn

from sae_lib.guards import with_gradients
from sae_lib.sae import SparseAutoencoder
from sae_lib.toy_model import ToyModel, train_toy_model
from sae_lib.training import TrainingHistory, fitting, train_sae


@with_gradients
def train_saes(
    saes: Sequence[SparseAutoencoder],
    activations: torch.Tensor,
    *,
    seeds: Sequence[int],
    l1_coefficient: float | Sequence[float] = 1e-3,
    train: Callable[..., TrainingHistory] = train_sae,
    **settings,
) -> list[TrainingHistory]:
    """`train` for many SAEs of one class and shape at once, in place; a history each.

    activations: one pool (n_samples, d_in) for all, or one each (n_saes, n_samples, d_in).
    l1_coefficient: one for all, or one each. seeds: one each. settings: the others of `train`.
    The weights are stacked on a leading axis, over which the class's own lines broadcast. SAE i
    sees the batches that `train` would draw for it alone, and ends where it would end.
    Raises ValueError if two steps of the stack differ from two steps alone: where the class
    counts axes from the front, or the loop mixes the SAEs. What only comes into play later, such
    as stopping early, is not seen by that.
    """
    prices = torch.as_tensor(l1_coefficient, dtype=torch.float64).expand(len(saes))
    _require_one_each(seeds, saes)
    stack = stack_modules(saes)
    activations = fitting(stack, activations)
    _compare_two_steps(saes, activations, prices, seeds, train, settings)
    prices = prices.to(stack.W_dec)
    history = train(stack, activations, l1_coefficient=prices, seed=list(seeds), **settings)
    unstack_(stack, saes)
    return [_entry(history, i) for i in range(len(saes))]


@with_gradients
def train_toy_models(models: Sequence[ToyModel], *, seeds: Sequence[int], **settings) -> None:
    """`train_toy_model` for many models of one shape at once, in place. seeds: one per model."""
    _require_one_each(seeds, models)
    stack = stack_modules(models)
    train_toy_model(stack, seed=list(seeds), **settings)
    unstack_(stack, models)


def stack_modules(modules: Sequence[nn.Module]) -> nn.Module:
    """One module that is all of them: entry i of each of its tensors belongs to module i.

    A matrix becomes (n, rows, columns), a vector (n, 1, size), a number (n, 1, 1), so that the
    class's own lines, written for one, broadcast over n when data comes as (n, batch, size).
    Raises ValueError for modules that differ in class, shapes or settings. (A tensor that is
    neither parameter nor buffer is not seen: it stays that of the first.)
    """
    for module in modules:
        if list(module.children()):
            raise ValueError(
                f"A {type(module).__name__} has modules inside it; a stack needs none."
            )
        if _signature(module) != _signature(modules[0]):
            raise ValueError(
                "A stack takes modules of one class, with tensors of the same shapes and the same "
                f"settings, but these differ: {_signature(modules[0])} and {_signature(module)}."
            )
    stack = _copy(modules[0])
    for name, tensor in _tensors(stack).items():
        rows = torch.stack([torch.atleast_2d(_tensors(m)[name].detach()) for m in modules])
        is_weight = isinstance(tensor, nn.Parameter)
        setattr(stack, name, nn.Parameter(rows, tensor.requires_grad) if is_weight else rows)
    return stack


@torch.no_grad()
def unstack_(stack: nn.Module, modules: Sequence[nn.Module]) -> None:
    """Write entry i of the stack's tensors into module i, in place; and its settings."""
    for i, module in enumerate(modules):
        for name, tensor in _tensors(module).items():
            tensor.copy_(_tensors(stack)[name][i].view_as(tensor))
        vars(module).update(_settings(stack))


def _require_one_each(seeds: Sequence[int], modules: Sequence[nn.Module]) -> None:
    if not len(seeds) == len(modules) > 0:
        raise ValueError(f"seeds must have {len(modules)} entries, one each; {len(seeds)} came.")


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's parameters and buffers."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _settings(module: nn.Module) -> dict:
    """What a class keeps besides tensors, such as k: numbers, words, and tuples of them."""
    plain, kept = (int, float, str, type(None)), {}
    for name, value in vars(module).items():
        parts = value if isinstance(value, (tuple, list)) else [value]
        if name not in vars(nn.Module()) and all(isinstance(part, plain) for part in parts):
            kept[name] = value
    return kept


def _signature(module: nn.Module) -> dict:
    """Everything in which the modules of one stack must be alike."""
    shapes = {
        name: (tuple(t.shape), t.dtype, t.requires_grad) for name, t in _tensors(module).items()
    }
    return {"class": type(module), **shapes, **_settings(module)}


def _copy(module: nn.Module) -> nn.Module:
    """A copy with tensors of its own. Not deepcopy, which fails on what a loss has just kept."""
    twin = copy.copy(module)
    twin._parameters = {
        name: nn.Parameter(p.detach().clone(), p.requires_grad)
        for name, p in module._parameters.items()
    }
    twin._buffers = {name: b.clone() for name, b in module._buffers.items()}
    return twin


def _entry(history: TrainingHistory, i: int) -> TrainingHistory:
    """The history of SAE i of a stack."""
    one = copy.copy(history)
    for name in ("reconstruction", "sparsity", "l0", "W_dec"):
        setattr(one, name, [value[i] for value in getattr(history, name)])
    return one


def _compare_two_steps(saes, activations, prices, seeds, train, settings) -> None:
    """Raise unless two steps of a stack give the first and the last SAE what they get alone.

    Weights, gradients and buffers are compared, in double precision, so that rounding decides
    nothing; on data of another size for each, so that a mixture shows.
    """
    ends = [0, len(saes) - 1] if len(saes) > 1 else [0]
    some = activations[..., :10_000, :].double()
    pools = some[ends] if some.ndim == 3 else some.expand(len(ends), *some.shape)
    pools = pools * torch.arange(1, len(ends) + 1, device=pools.device)[:, None, None]
    settings = settings | {"n_steps": 2}
    alone = [_copy(saes[i]).double() for i in ends]
    stack = stack_modules(alone)
    try:
        train(stack, pools, l1_coefficient=prices[ends], seed=[seeds[i] for i in ends], **settings)
        for one, i, pool in zip(alone, ends, pools, strict=True):
            train(one, pool, l1_coefficient=prices[i].item(), seed=seeds[i], **settings)
    except RuntimeError as error:
        raise ValueError(f"This class or loop does not take a stack of SAEs: {error}") from error
    for i, one in enumerate(alone):
        for name, own in _tensors(one).items():
            together = _tensors(stack)[name]
            if not (_is_entry(i, together, own) and _is_entry(i, together.grad, own.grad)):
                raise ValueError(
                    f"A stack of this class, in this loop, gets another {name} than each SAE "
                    "alone. Count axes from the end (dim=-1), keep what is learned from data "
                    "in buffers, let no line mix the SAEs; or train them one by one."
                )


def _is_entry(i: int, together: torch.Tensor | None, own: torch.Tensor | None) -> bool:
    """Whether entry i of a stack's tensor (or gradient, or None) is the SAE's own."""
    if own is None or together is None:
        return own is together
    if together[i].numel() != own.numel():
        return False
    return torch.allclose(together[i].view_as(own), own, rtol=1e-4, atol=1e-6)

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
    train: Callable[..., TrainingHistory] = train_sae,
    **settings,
) -> list[TrainingHistory]:
    """`train` for many SAEs of one class and shape at once, in place; a history each.

    activations: one pool (n_samples, d_in) for all, or one each (n_saes, n_samples, d_in).
    seeds: one each. settings: the others of `train`.
    The weights are stacked on a leading axis, over which the class's own lines broadcast. SAE i
    sees the batches that `train` would draw for it alone, and ends where it would end.
    Raises ValueError if two steps of the stack differ from two steps alone: where the class
    counts axes from the front, or the loop mixes the SAEs. What only comes into play later, such
    as stopping early, is not seen by that.
    """
    stack = stack_modules(saes, seeds)
    activations = fitting(stack, activations)
    _compare_two_steps(saes, activations, seeds, train, settings | {"n_steps": 2})
    history = train(stack, activations, seed=list(seeds), **settings)
    unstack_(stack, saes)
    return [_entry(history, i) for i in range(len(saes))]


@with_gradients
def train_toy_models(models: Sequence[ToyModel], *, seeds: Sequence[int], **settings) -> None:
    """`train_toy_model` for many models of one shape at once, in place. seeds: one per model."""
    stack = stack_modules(models, seeds)
    train_toy_model(stack, seed=list(seeds), **settings)
    unstack_(stack, models)


def stack_modules(modules: Sequence[nn.Module], seeds: Sequence[int]) -> nn.Module:
    """One module that is all of them: entry i of each of its tensors belongs to module i.

    A matrix becomes (n, rows, columns), a vector (n, 1, size), a number (n, 1, 1), so that the
    class's own lines, written for one, broadcast over n when data comes as (n, batch, size).
    (A tensor that is neither parameter nor buffer is not seen: it stays that of the first.)
    """
    if not len(seeds) == len(modules) > 0:
        raise ValueError(f"seeds must have {len(modules)} entries, one each; {len(seeds)} came.")
    first = _signature(modules[0])
    for module in modules:
        if list(module.children()) or _signature(module) != first:
            raise ValueError(
                "A stack takes modules of one class, with no modules inside, tensors of the same "
                f"shapes and the same settings, but these came: {first} and {_signature(module)}."
            )
    names = _tensors(modules[0])
    return _copy(modules[0], {n: _stacked([_tensors(m)[n] for m in modules]) for n in names})


@torch.no_grad()
def unstack_(stack: nn.Module, modules: Sequence[nn.Module]) -> None:
    """Write entry i of the stack's tensors into module i, in place; and its settings."""
    for i, module in enumerate(modules):
        for name, tensor in _tensors(module).items():
            tensor.copy_(_tensors(stack)[name][i].view_as(tensor))
        vars(module).update(_settings(stack))


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's parameters and buffers."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _settings(module: nn.Module) -> dict:
    """What a class keeps besides tensors, such as k: numbers, words, and tuples of them."""
    kept = {}
    for name, value in vars(module).items():
        parts = value if isinstance(value, (tuple, list)) else [value]
        if all(isinstance(part, (int, float, str)) for part in parts):
            kept[name] = value
    return kept


def _signature(module: nn.Module) -> dict:
    """Everything in which the modules of one stack must be alike."""
    tensors = {n: (tuple(t.shape), t.dtype, t.requires_grad) for n, t in _tensors(module).items()}
    return {"class": type(module), **tensors, **_settings(module)}


def _stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([torch.atleast_2d(tensor.detach()) for tensor in tensors])


def _copy(module: nn.Module, tensors: dict[str, torch.Tensor]) -> nn.Module:
    """A copy with these tensors. Not deepcopy, which fails on what a loss has just kept."""
    twin = copy.copy(module)
    twin._parameters, twin._buffers = module._parameters.copy(), module._buffers.copy()
    for name, tensor in tensors.items():
        old, new = getattr(module, name), tensor.detach().clone()
        is_weight = isinstance(old, nn.Parameter)
        setattr(twin, name, nn.Parameter(new, old.requires_grad) if is_weight else new)
    return twin


def _entry(history: TrainingHistory, i: int) -> TrainingHistory:
    """The history of SAE i of a stack."""
    one = copy.copy(history)
    for name in ("reconstruction", "sparsity", "l0", "W_dec"):
        setattr(one, name, [value[i] for value in getattr(history, name)])
    return one


def _compare_two_steps(saes, activations, seeds, train, settings) -> None:
    """Raise unless two steps of a stack give the first and the last SAE what they get alone.

    Weights, gradients and buffers are compared, in double precision, so that rounding decides
    nothing; on data of another size for each, so that a mixture shows.
    """
    ends = [0, -1]
    alone = [_copy(saes[i], _tensors(saes[i])).double() for i in ends]
    seeds = [seeds[i] for i in ends]
    stack = stack_modules(alone, seeds)
    some = activations[ends] if activations.ndim == 3 else activations
    some = some[..., :10_000, :].double()
    pools = torch.tensor([1.0, 2.0]).to(some)[:, None, None] * some
    try:
        train(stack, pools, seed=seeds, **settings)
        for sae, pool, seed in zip(alone, pools, seeds, strict=True):
            train(sae, pool, seed=seed, **settings)
        for name, together in _tensors(stack).items():
            own = [_tensors(sae)[name] for sae in alone]
            pairs = [(together, _stacked(own))]
            if own[0].grad is not None:
                pairs.append((together.grad, _stacked([tensor.grad for tensor in own])))
            if not all(torch.allclose(*pair, rtol=1e-4, atol=1e-6) for pair in pairs):
                raise ValueError(
                    f"A stack of this class, in this loop, gets another {name} than each SAE "
                    "alone. Count axes from the end (dim=-1), keep what is learned from data "
                    "in buffers, let no line mix the SAEs; or train them one by one."
                )
    except RuntimeError as error:
        raise ValueError(f"This class or loop does not take a stack of SAEs: {error}") from error

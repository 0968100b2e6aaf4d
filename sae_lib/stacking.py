"""Many small modules as one: their tensors stacked on a new first axis, which broadcasts."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from sae_lib.sae import settings_of


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's parameters and buffers."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _signature(module: nn.Module) -> dict:
    """Everything in which the modules of one stack must be alike, and what it is called."""
    return {
        "class": type(module),
        "mode (train or eval)": module.training,
        **{f"shape of {name}": tuple(t.shape) for name, t in _tensors(module).items()},
        **{f"dtype of {name}": t.dtype for name, t in _tensors(module).items()},
        **{f"frozen state of {name}": t.requires_grad for name, t in _tensors(module).items()},
        **settings_of(module),
    }


def refuse_plain_tensors(module: nn.Module) -> None:
    """Raise if the module keeps a tensor or an array that is neither parameter nor buffer."""
    for name, value in settings_of(module).items():
        if isinstance(value, (torch.Tensor, np.ndarray)):
            kind = type(module).__name__
            raise TypeError(f"`{name}` of {kind} is a plain tensor; make it a buffer to stack it.")


def stack_modules(modules: Sequence[nn.Module]) -> nn.Module:
    """One module that is all of them: entry i of each of its tensors belongs to module i.

    A matrix becomes (n, rows, columns), a vector (n, 1, size), a number (n, 1, 1), so that the
    class's own lines, written for one, broadcast over n when data comes as (n, batch, size).
    Raises TypeError or ValueError, by name, for what cannot be stacked: modules inside the
    module, a tensor that is neither parameter nor buffer, and modules that differ in anything
    but the values of their tensors.
    """
    first = modules[0]
    kind = type(first).__name__
    if not all(isinstance(module, nn.Module) for module in modules):
        raise TypeError(f"A stack takes modules, but {[type(m).__name__ for m in modules]} came.")
    if len({id(module) for module in modules}) < len(modules):
        raise ValueError(f"The same {kind} came twice; a stack trains each of its own.")
    if list(first.children()):
        raise TypeError(f"A {kind} has modules inside it; a stack needs plain weights.")
    refuse_plain_tensors(first)
    wanted = _signature(first)
    for module in modules[1:]:
        given = _signature(module)
        for name in wanted | given:
            if wanted.get(name) != given.get(name):
                raise ValueError(
                    f"A stack takes modules that are alike, but their {name} differs: "
                    f"{wanted.get(name)} and {given.get(name)}."
                )
    stack = copy.deepcopy(first)
    for name, tensor in _tensors(first).items():
        rows = torch.stack([torch.atleast_2d(_tensors(m)[name].detach()) for m in modules])
        is_weight = isinstance(tensor, nn.Parameter)
        setattr(stack, name, nn.Parameter(rows, tensor.requires_grad) if is_weight else rows)
    return stack


@torch.no_grad()
def unstack_(stack: nn.Module, modules: Sequence[nn.Module]) -> None:
    """Write entry i of the stack's tensors into module i, in place; and what it counted."""
    for i, module in enumerate(modules):
        for name, tensor in _tensors(module).items():
            tensor.copy_(getattr(stack, name)[i].view_as(tensor))
        vars(module).update(copy.deepcopy(settings_of(stack)))

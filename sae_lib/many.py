"""Many at once: a stack of modules is one module, and torch.func runs its class over all."""

import copy
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from sae_lib.checks import finite
from sae_lib.sae import SAELoss, SparseAutoencoder
from sae_lib.toy_model import ToyModel, train_toy_model
from sae_lib.training import TrainingHistory, train_sae


def train_saes(
    saes: Sequence[SparseAutoencoder],
    activations: torch.Tensor,
    *,
    seed: int = 0,
    train: Callable[..., TrainingHistory] = train_sae,
    **settings,
) -> list[TrainingHistory]:
    """`train` for many SAEs of one class and shape at once, in place; a history each.

    activations: one pool (n_samples, d_in) for all, or one each (n_saes, n_samples, d_in).
    All see the same rows of their pools in the same order, so SAE i ends where
    `train(saes[i], its pool, seed=seed, ...)` ends, up to rounding.
    Where torch.func cannot run the class or the loop (an `if` on values, a buffer that changes,
    a step that mixes the SAEs), or two steps end elsewhere, they are trained one by one, and a
    warning says so.
    """
    _different("saes: expected different SAEs", saes)
    activations = finite("activations", activations)
    if activations.ndim == 2:
        activations = activations.expand(len(saes), -1, -1)
    if activations.ndim != 3 or len(activations) != len(saes):
        raise ValueError(
            f"activations: expected the shape (n_samples, d_in) or ({len(saes)}, n_samples, d_in), "
            f"one for each SAE, got {tuple(activations.shape)}."
        )
    why = _why_not(saes, activations, train, settings | {"seed": seed})
    if why:
        warnings.warn(f"These SAEs are trained one by one: {why}", stacklevel=2)
        pairs = zip(saes, activations, strict=True)
        return [train(sae, own, seed=seed, **settings) for sae, own in pairs]
    stack = Stack(saes)
    history = train(stack, activations.movedim(0, 1).contiguous(), seed=seed, **settings)
    stack.give_back(saes)
    return [_entry(history, i, sae) for i, sae in enumerate(saes)]


def train_toy_models(models: Sequence[ToyModel], *, seed: int = 0, **settings) -> None:
    """`train_toy_model` for many models of one shape at once, in place, on the same inputs."""
    _different("models: expected different toy models", models)
    stack = Stack(models)
    train_toy_model(stack, seed=seed, **settings)
    stack.give_back(models)


def _different(expected: str, modules: Sequence[nn.Module]) -> None:
    if len(set(map(id, modules))) < max(1, len(modules)):
        raise ValueError(f"{expected}, got {'one of them twice' if modules else 'none'}.")


class Stack(nn.Module):
    """Modules of one class and shape as one: entry i of each of its tensors is module i's.

    Its methods are the class's own, run by torch.func.vmap over that leading axis. Inputs have
    the axis second, (batch, n, d_in), so that a loop written for one module draws a batch for
    all of them at once: the same rows of each one's pool. The total loss is the sum of all.
    """

    def __init__(self, modules: Sequence[nn.Module]):
        super().__init__()
        first = _kept(modules[0])
        if any(type(m) is not type(modules[0]) or _kept(m) != first for m in modules):
            raise ValueError("A stack takes modules of one class with the same settings.")
        parameters, buffers = stack_module_state(list(modules))
        for name, tensor in parameters.items():  # register_parameter refuses the dot of "norm.bias"
            self._parameters[name] = nn.Parameter(tensor.detach(), tensor.requires_grad)
        self._buffers.update(buffers)
        self._one = [_Call(copy.deepcopy(modules[0]))]  # in a list: its weights are not the stack's

    def _each(self, method: str, *inputs):
        tensors = {f"module.{n}": t for n, t in (*self.named_parameters(), *self.named_buffers())}
        axes = [1 if getattr(x, "ndim", 0) == 3 else None for x in inputs]

        def one(tensors, *inputs):
            result = functional_call(self._one[0], tensors, (method, *inputs))
            return tensors if result is None else result  # vmap must return something

        return vmap(one, in_dims=(0, *axes), randomness="different")(tensors, *inputs)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self._each("encode", x)

    def loss(self, *inputs) -> SAELoss | torch.Tensor:
        loss = self._each("loss", *inputs)  # an SAE's has three parts, a toy model's is one number
        return loss._replace(total=loss.total.sum()) if hasattr(loss, "total") else loss.sum()

    @torch.no_grad()
    def normalize_decoder_(self) -> None:
        self._each("normalize_decoder_")

    def sample_features(self, n: int, *, seed) -> torch.Tensor:
        return self._one[0].module.sample_features(n, seed=seed)

    @torch.no_grad()
    def give_back(self, modules: Sequence[nn.Module]) -> None:
        """Write entry i of each tensor into module i, in place."""
        for name, tensor in self.state_dict().items():  # buffers too: they may have changed
            for module, own in zip(modules, tensor, strict=True):
                module.state_dict()[name].copy_(own)


class _Call(nn.Module):
    """functional_call runs forward alone: this one passes it on to any method."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, method: str, *inputs):
        return getattr(self.module, method)(*inputs)


def _kept(module: nn.Module) -> dict:
    """What a class keeps besides its weights, such as k. (Each has its own seed.)"""
    names = vars(module).keys() - vars(nn.Module()).keys() - {"seed"}
    return {name: repr(vars(module)[name]) for name in names}


def _entry(history: TrainingHistory, i: int, sae: SparseAutoencoder) -> TrainingHistory:
    """The history of SAE i of a stack."""
    one = copy.copy(history)
    one.sae = sae
    for name in ("reconstruction", "sparsity", "l0", "W_dec"):
        setattr(one, name, [value[i] for value in getattr(history, name)])
    return one


def _why_not(saes, activations, train, settings) -> str:
    """Why these cannot be stacked; empty if two steps of a stack end where two steps alone end.

    In double precision, so that rounding decides nothing.
    """
    settings = settings | {"n_steps": 2}
    some = activations[[0, -1], :10_000].cpu().double()  # Apple's GPU knows no doubles
    alone = [copy.deepcopy(saes[i]).cpu().double() for i in (0, -1)]
    together = copy.deepcopy(alone)
    for sae, own in zip(alone, some, strict=True):
        train(sae, own, **settings)  # outside of `try`: this error is the learner's
    try:
        Stack(saes)  # those in between, too
        stack = Stack(together)
        train(stack, some.movedim(0, 1).contiguous(), **settings)
        for name, tensor in stack.state_dict().items():
            own = torch.stack([sae.state_dict()[name] for sae in alone])
            if not torch.allclose(tensor, own, rtol=1e-4, atol=1e-6):
                return f"in a stack {name} would end elsewhere."
    except (RuntimeError, ValueError) as error:
        return f"{error}".strip().splitlines()[0][:200]
    return ""

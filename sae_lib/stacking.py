"""Many small modules at once: their weights stacked, one function run over the stack."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx


class Stack:
    """The weights of modules of one class and shape, on a new first axis: `.params`."""

    def __init__(self, modules: Sequence[nn.Module]):
        self.modules = list(modules)
        kinds = {
            (type(m), getattr(m, "k", None), *((n, p.shape) for n, p in m.named_parameters()))
            for m in self.modules
        }
        if len(kinds) > 1:
            raise ValueError("A stack takes modules of one class, one shape and one k only.")
        if len({tuple(p.requires_grad for p in m.parameters()) for m in self.modules}) > 1:
            raise ValueError("A stack takes modules with the same frozen weights only.")
        stacked, _ = torch.func.stack_module_state(self.modules)
        self.params = {name: weight.detach() for name, weight in stacked.items()}
        self.skeleton = copy.deepcopy(self.modules[0]).to("meta")

    def trained(self) -> list[torch.Tensor]:
        """The stacked weights that require a gradient."""
        first = self.modules[0]
        return [w for name, w in self.params.items() if first.get_parameter(name).requires_grad]

    def call_one(self, params: dict[str, torch.Tensor], x: torch.Tensor):
        """One module's forward pass, with the weights given."""
        return torch.func.functional_call(self.skeleton, params, (x,))

    def set_gradients(self, gradients: dict[str, torch.Tensor]) -> None:
        """Hand the gradients to the optimiser. Contiguous: fused optimisers assume it."""
        for name, weight in self.params.items():
            weight.grad = gradients[name].contiguous()

    @torch.no_grad()
    def copy_back(self) -> None:
        """Write the stacked weights into the modules."""
        for i, module in enumerate(self.modules):
            for name, parameter in module.named_parameters():
                parameter.copy_(self.params[name][i])


def stacked_gradients(loss_of_one: Callable) -> Callable:
    """The gradients of `loss_of_one(params, *data) -> (loss, extras)` for a whole stack at once.

    vmap turns the loss of one into the losses of all; make_fx writes down the tensor operations
    of the first call and replays them from then on, without autograd's and vmap's overhead:
    about half the time of a step for a few small SAEs.
    """
    of_all = torch.vmap(torch.func.grad(loss_of_one, has_aux=True))
    recorded = None

    @torch.no_grad()
    def gradients(*arguments):
        nonlocal recorded
        recorded = recorded or make_fx(of_all)(*arguments)
        return recorded(*arguments)

    return gradients

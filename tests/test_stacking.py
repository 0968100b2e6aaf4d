"""Stacked modules get the gradients that each would get alone, on every call."""

import pytest
import torch
from torch import nn

from sae_lib.stacking import Stack, stacked_gradients

pytestmark = pytest.mark.usefixtures("global_random_state_untouched")


class Line(nn.Module):
    """y = a x + b."""

    def __init__(self, a: float, b: float):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor([a])), nn.Parameter(torch.tensor([b]))

    def forward(self, x):
        return self.a * x + self.b


def squared_error(stack):
    def loss_of_one(params, x, y):
        error = stack.call_one(params, x) - y
        return error.square().mean(), error

    return stacked_gradients(loss_of_one)


def test_gradients_of_two_lines_by_hand():
    stack = Stack([Line(1.0, 0.0), Line(2.0, 1.0)])
    x, y = torch.tensor([[1.0, 3.0], [0.0, 2.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    gradients, errors = squared_error(stack)(stack.params, x, y)
    assert errors.tolist() == [[1.0, 3.0], [0.0, 4.0]]
    assert gradients["a"].tolist() == [[10.0], [8.0]]  # mean of 2 · error · x
    assert gradients["b"].tolist() == [[4.0], [4.0]]


def test_recorded_gradients_follow_new_weights_and_new_data():
    lines = [Line(1.0, 0.0), Line(2.0, 1.0)]
    stack = Stack(lines)
    gradients_of = squared_error(stack)
    for seed in range(3):
        x, y = torch.randn(2, 2, 8, generator=torch.Generator().manual_seed(seed))
        gradients, _ = gradients_of(stack.params, x, y)
        for i, line in enumerate(lines):
            alone = torch.autograd.grad((line(x[i]) - y[i]).square().mean(), line.parameters())
            torch.testing.assert_close([g[i] for g in gradients.values()], list(alone))
        for weight in stack.params.values():
            weight += seed + 1
        stack.copy_back()


def test_modules_change_only_when_the_weights_are_copied_back():
    lines = [Line(1.0, 0.0), Line(2.0, 1.0)]
    stack = Stack(lines)
    stack.params["a"] *= 10
    assert [line.a.item() for line in lines] == [1.0, 2.0]
    stack.copy_back()
    assert [line.a.item() for line in lines] == [10.0, 20.0]
    assert [line.b.item() for line in lines] == [0.0, 1.0]


def test_frozen_weights_are_not_among_the_trained():
    line = Line(1.0, 0.0)
    line.a.requires_grad_(False)
    stack = Stack([line])
    assert [w is stack.params["b"] for w in stack.trained()] == [True]


def test_modules_that_differ_in_what_is_frozen_are_refused():
    lines = [Line(1.0, 0.0), Line(2.0, 1.0)]
    lines[1].a.requires_grad_(False)
    with pytest.raises(ValueError, match="the same frozen weights"):
        Stack(lines)

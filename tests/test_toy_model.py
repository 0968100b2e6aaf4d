"""The toy model: what it computes, what it draws, and that training packs all ten features."""

import math

import pytest
import torch

from sae_lib import ToyModel, train_toy_model

pytestmark = pytest.mark.usefixtures("global_random_state_untouched")


def test_two_opposite_features_in_one_dimension():
    model = ToyModel(n_features=2, n_hidden=1)
    with torch.no_grad():
        model.W.copy_(torch.tensor([[1.0, -1.0]]))
        model.b.copy_(torch.tensor([-0.25, 0.0]))
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.5]])
    assert model.encode(features).tolist() == [[1.0], [-1.0], [0.5]]
    assert model(features).tolist() == [[0.75, 0.0], [0.0, 1.0], [0.25, 0.0]]  # (Wᵀh + b)₊


def test_features_are_on_as_often_as_said_independently_and_uniform_when_on():
    features = ToyModel(sparsity=0.7).sample_features(20_000)
    is_on, quarters = (features > 0).float(), torch.tensor([0.25, 0.5, 0.75])
    assert features.shape == (20_000, 10) and features.min() >= 0 and features.max() < 1
    # each within five standard errors
    assert is_on.mean(dim=0) == pytest.approx(0.3, abs=0.017)
    assert (torch.corrcoef(is_on.T) - torch.eye(10)).abs().max() < 5 / 20_000**0.5
    measured = torch.quantile(features[features > 0][:20_000], quarters)
    torch.testing.assert_close(measured, quarters, atol=0.018, rtol=0)


def test_samples_depend_on_the_seed_alone_and_a_generator_moves_on():
    model, generator = ToyModel(), torch.Generator().manual_seed(3)
    first, second = (model.sample_features(50, seed=generator) for _ in range(2))
    assert torch.equal(first, ToyModel(seed=9).sample_features(50, seed=3))
    assert not torch.equal(first, second)
    assert not torch.equal(first, model.sample_features(50, seed=4))


def test_training_agrees_with_a_plain_loop():
    fast, plain = ToyModel(seed=1).double(), ToyModel(seed=1).double()
    train_toy_model(fast, n_steps=30, batch_size=16, lr=0.02, seed=5)
    generator = torch.Generator().manual_seed(5)
    optimizer = torch.optim.Adam(plain.parameters())
    for step in range(30):
        features = ToyModel().sample_features(16, seed=generator).double()
        rebuilt = torch.relu(features @ plain.W.T @ plain.W + plain.b)
        optimizer.zero_grad()
        (((features - rebuilt) ** 2).sum() / 16).backward()
        optimizer.param_groups[0]["lr"] = 0.01 * (1 + math.cos(math.pi * step / 30))
        optimizer.step()
    torch.testing.assert_close(fast.state_dict(), plain.state_dict(), atol=1e-9, rtol=0)


def test_a_run_that_diverges_says_so():
    with pytest.raises(FloatingPointError, match=r"ran away .* try a smaller lr"):
        train_toy_model(ToyModel(), lr=1e30, n_steps=30)

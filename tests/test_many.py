"""Many at once end where each ends alone; what cannot be stacked is trained one by one."""

import contextlib

import numpy as np
import pytest
import torch
import variants
from variants import same_weights

from sae_lib import SparseAutoencoder, TopKSparseAutoencoder, ToyModel, train_saes, train_toy_models
from sae_lib.toy_model import train_toy_model
from sae_lib.training import train_sae

POOLS = torch.rand(3, 300, 5, generator=torch.Generator().manual_seed(0)).double() - 0.5
POOLS *= torch.tensor([1.0, 2.0, 0.5]).view(3, 1, 1)
SETTINGS = dict(l1_coefficient=1e-2, l1_start=0.2, n_steps=60, batch_size=32, n_logged=20, lr=0.02)


def three(kind, **settings):
    """Three of a kind with seeds 0, 1, 2. In double precision rounding decides nothing."""
    return [kind(5, 20, seed=seed, **settings).double() for seed in range(3)]


VARIANTS = {
    "L1": lambda: three(SparseAutoencoder),
    "TopK": lambda: three(TopKSparseAutoencoder, k=2),
    "BatchTopK": lambda: three(variants.BatchTopK, k=2),
    "a frozen decoder": lambda: three(variants.frozen_decoder),
    "a module and a buffer within": lambda: three(variants.Counting),
}


@pytest.mark.usefixtures("global_random_state_untouched")
@pytest.mark.parametrize("variant", VARIANTS)
def test_saes_trained_together_end_where_each_ends_alone(variant):
    together, alone, start = VARIANTS[variant](), VARIANTS[variant](), VARIANTS[variant]()
    histories = train_saes(together, POOLS, seed=3, **SETTINGS)
    for i, sae in enumerate(alone):
        history = train_sae(sae, POOLS[i], seed=3, **SETTINGS)
        assert histories[i].sae is together[i] and histories[i].prices == history.prices
        for name in ("step", "reconstruction", "sparsity", "l0", "W_dec"):
            given = (np.array(getattr(one, name)) for one in (histories[i], history))
            np.testing.assert_allclose(*given, atol=1e-8, rtol=1e-6)
        for name, tensor in sae.state_dict().items():
            given = together[i].state_dict()[name]
            torch.testing.assert_close(given, tensor, atol=1e-8, rtol=1e-6)
            moved = not torch.allclose(given, start[i].state_dict()[name], atol=1e-6)
            assert moved == (name != "W_dec" or "frozen" not in variant), name


def test_one_pool_serves_all():
    shared, spelt_out = three(SparseAutoencoder), three(SparseAutoencoder)
    train_saes(shared, POOLS[0].numpy(), n_steps=20)
    train_saes(spelt_out, POOLS[:1].expand(3, -1, -1), n_steps=20)
    assert all(map(same_weights, shared, spelt_out))


def own_loop(sae, activations, **settings):
    """A loop that a reader might write: with a decoder of its own length."""
    history = train_sae(sae, activations, **settings | {"lr": 0.01})
    sae.W_dec.data *= 2
    return history


def mixing_loop(sae, activations, **settings):
    """The same with a slip: of a stack, this is the length of all of them together."""
    history = train_sae(sae, activations, **settings)
    sae.b_dec.data /= sae.b_dec.data.norm()
    return history


def branching_loop(sae, activations, **settings):
    """The same with an `if`, which has no answer for a stack."""
    is_rebuilt = sae.loss(activations[:9], 0.0).reconstruction < 1e-9
    return train_sae(sae, activations, **settings | ({"lr": 0.01} if is_rebuilt else {}))


@pytest.mark.parametrize("loop", [own_loop, mixing_loop, branching_loop])
def test_a_loop_of_the_readers_own_is_used_and_if_it_would_mix_the_saes_one_by_one(loop):
    together, alone = three(SparseAutoencoder), three(SparseAutoencoder)
    one_by_one = pytest.warns(match="one by one: ")
    with contextlib.nullcontext() if loop is own_loop else one_by_one:
        train_saes(together, POOLS, n_steps=30, seed=3, train=loop)
    for sae, other, pool in zip(together, alone, POOLS, strict=True):
        loop(other, pool, n_steps=30, seed=3)
        torch.testing.assert_close(sae.state_dict(), other.state_dict(), atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize(("kind", "k"), [(variants.BatchTopK, 2), (TopKSparseAutoencoder, 3)])
def test_one_that_differs_in_class_or_settings_is_not_stacked(kind, k):
    saes = three(TopKSparseAutoencoder, k=2)
    saes[1], alone = (kind(5, 20, k=k, seed=1).double() for _ in range(2))
    with pytest.warns(UserWarning, match="one class with the same settings"):
        train_saes(saes, POOLS, n_steps=10)
    train_sae(alone, POOLS[1], n_steps=10)
    assert same_weights(saes[1], alone)


def test_what_cannot_work_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="batch_size: expected"):  # and no warning, an error here
        train_saes(three(SparseAutoencoder), POOLS, batch_size=0)
    sae = SparseAutoencoder(5, 20).double()
    with pytest.raises(ValueError, match="expected different SAEs, got one of them twice"):
        train_saes([sae] * 4, POOLS[0])
    for pools in (POOLS[:2], POOLS[0, 0]):
        with pytest.raises(ValueError, match=r"expected the shape .* \(3, n_samples, d_in\)"):
            train_saes(three(SparseAutoencoder), pools)


def test_toy_models_trained_together_end_where_they_end_alone():
    together, alone = ([ToyModel(seed=s).double() for s in (0, 1, 2)] for _ in range(2))
    train_toy_models(together, seed=3, n_steps=50, batch_size=32)
    for model, other in zip(together, alone, strict=True):
        train_toy_model(other, seed=3, n_steps=50, batch_size=32)
        torch.testing.assert_close(model.state_dict(), other.state_dict(), atol=1e-9, rtol=0)

"""Training: step by step against numpy, what always holds, and the recovery of all features."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from sae_lib import (
    FALLING_PRICE,
    SparseAutoencoder,
    TopKSparseAutoencoder,
    ToyModel,
    agreement,
    cosine_similarity_matrix,
    fires,
    fvu,
    l0,
    live_directions,
    match_features,
    oracle_sae,
    train_sae,
    train_saes,
)
from sae_lib.training import cosine_schedule, minibatches, price_at, steps_to_log

pytestmark = pytest.mark.usefixtures("global_random_state_untouched")
POOL = torch.rand(300, 5, generator=torch.Generator().manual_seed(0)) - 0.5


def train_one(sae, activations, *, seed=0, **settings):
    """train_sae by way of train_saes, so that one test can guard both."""
    return train_saes([sae], activations, seeds=[seed], **settings)[0]


both = pytest.mark.parametrize("train", [train_sae, train_one], ids=["train_sae", "train_saes"])


def same_weights(a, b) -> bool:
    return all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))


def matched(sae, model) -> np.ndarray:
    return match_features(cosine_similarity_matrix(sae.W_dec, model.feature_directions)).cosine


# --- the parts --------------------------------------------------------------------------


def test_logged_steps_are_spaced_on_a_log_axis_with_both_ends():
    assert steps_to_log(101, 3) == {0, 1, 10, 100}
    assert steps_to_log(1, 60) == {0}
    assert steps_to_log(50, 1_000) == set(range(50))
    assert {0, 4_999} <= steps_to_log(5_000, 60) and 50 <= len(steps_to_log(5_000, 60)) <= 61
    assert {0, 9} <= steps_to_log(10, 1)


def test_learning_rate_falls_from_one_to_zero_along_half_a_cosine():
    rates = [cosine_schedule(step, 12) for step in range(13)]
    assert [rates[0], rates[4], rates[6], rates[12]] == pytest.approx([1, 0.75, 0.5, 0])
    assert rates == sorted(rates, reverse=True)


def test_the_price_falls_by_equal_factors_over_three_fifths_of_the_steps_and_then_stays():
    prices = [price_at(step, 10, 0.001, 0.064) for step in range(10)]
    assert prices == pytest.approx([0.064, 0.032, 0.016, 0.008, 0.004, 0.002] + [0.001] * 4)
    assert [price_at(step, 10, 0.3, None) for step in (0, 9)] == [0.3, 0.3]
    each = price_at(3, 10, torch.tensor([0.001, 0.016]), 0.064)
    assert each.tolist() == pytest.approx([0.008, 0.032])


def test_minibatches_are_rows_of_the_pool_drawn_evenly_and_repeat_with_their_seed_only():
    pool = torch.stack([torch.arange(50.0), -torch.arange(50.0)], dim=1)
    drawn, again, other = (
        torch.stack(list(minibatches(pool, batch_size=40, n_steps=250, seed=s))) for s in (0, 0, 1)
    )
    assert drawn.shape == (250, 40, 2) and torch.equal(drawn, again)
    assert (drawn != other).any(dim=(1, 2)).all()
    assert torch.equal(drawn[..., 0], -drawn[..., 1])
    counts = torch.bincount(drawn[..., 0].flatten().long(), minlength=50)
    assert counts.min() > 200 - 5 * 200**0.5 and counts.max() < 200 + 5 * 200**0.5
    assert not torch.equal(drawn[:10], drawn[100:110])  # the second hundred is drawn anew


@pytest.mark.parametrize("pools", [POOL, torch.stack([POOL, 2 * POOL])], ids=["one", "one each"])
def test_in_a_stack_each_sees_the_batches_that_it_would_see_alone(pools):
    together = torch.stack(list(minibatches(pools, batch_size=8, n_steps=120, seed=[3, 4])))
    for i, seed in enumerate((3, 4)):
        pool = pools if pools.ndim == 2 else pools[i]
        alone = torch.stack(list(minibatches(pool, batch_size=8, n_steps=120, seed=seed)))
        assert torch.equal(together[:, i], alone)


# --- step by step -----------------------------------------------------------------------


def train_in_numpy(weights, batches, prices, lr, betas, normalize, k):
    """AdamW without decay on gradients derived by hand; the history of (error, λ L1, L0)."""
    W_enc, b_enc, W_dec, b_dec = weights
    first, second = ([np.zeros_like(w) for w in weights] for _ in range(2))
    history = []
    for step, (x, price) in enumerate(zip(batches, prices, strict=True)):
        h = np.maximum(x @ W_enc + b_enc, 0)
        if k:
            h[h < np.sort(h, axis=1)[:, [-k]]] = 0
        error = h @ W_dec + b_dec - x
        history.append([(error**2).sum(), price * h.sum(), (h > 0.01).sum()])
        d_x_hat = 2 * error / len(x)
        d_h = (d_x_hat @ W_dec.T + price / len(x)) * (h > 0)
        gradients = x.T @ d_h, d_h.sum(axis=0), h.T @ d_x_hat, d_x_hat.sum(axis=0)
        rate = lr * (1 + math.cos(math.pi * step / len(batches))) / 2
        for w, g, m, v in zip(weights, gradients, first, second, strict=True):
            m += (1 - betas[0]) * (g - m)
            v += (1 - betas[1]) * (g**2 - v)
            m_hat, v_hat = m / (1 - betas[0] ** (step + 1)), v / (1 - betas[1] ** (step + 1))
            w -= rate * m_hat / (np.sqrt(v_hat) + 1e-8)
        if normalize:
            W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    return np.array(history).T / len(x)


@both
@pytest.mark.parametrize(
    ("l1_start", "normalize", "k"),
    [(None, True, None), (None, False, None), (0.4, True, None), (None, True, 2)],
    ids=["constant price", "free lengths", "falling price", "TopK"],
)
def test_training_agrees_with_numpy_at_every_step(train, l1_start, normalize, k):
    sae, pool = SparseAutoencoder(5, 20, seed=1).double(), POOL.double()
    if k:
        sae = TopKSparseAutoencoder(5, 20, k=k, seed=1).double()
    weights = [sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec]
    expected = [w.detach().numpy().copy() for w in weights]
    batches = [x.numpy() for x in minibatches(pool, 16, 40, seed=2)]
    prices = [0.0 if k else 0.05] * 40
    if l1_start:
        prices = [0.05 * 8 ** (1 - step / 24) for step in range(24)] + [0.05] * 16
    log = train_in_numpy(expected, batches, prices, 0.02, (0.8, 0.95), normalize, k)
    history = train(
        sae,
        pool,
        l1_coefficient=0.05,
        l1_start=l1_start,
        n_steps=40,
        batch_size=16,
        lr=0.02,
        betas=(0.8, 0.95),
        normalize_decoder=normalize,
        seed=2,
        n_logged=500,
    )
    assert history.step.tolist() == list(range(40))
    for w, w_numpy in zip(weights, expected, strict=True):
        np.testing.assert_allclose(w.detach(), w_numpy, atol=1e-9)
    curves = history.reconstruction, history.sparsity, history.l0
    for logged, by_hand in zip(curves, log, strict=True):
        np.testing.assert_allclose(logged, by_hand, rtol=1e-6)


# --- what always holds ------------------------------------------------------------------


@both
def test_every_decoder_direction_has_length_one_after_every_step(train):
    sae = SparseAutoencoder(5, 20)
    history = train(sae, POOL, n_steps=60, n_logged=1_000)
    assert len(history.step) == 60
    assert (history.W_dec[1:] != history.W_dec[:-1]).any(dim=(1, 2)).all()
    torch.testing.assert_close(history.W_dec.norm(dim=-1), torch.ones(60, 20))
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(20))


@both
def test_history_shows_each_logged_step_before_its_update(train):
    sae = SparseAutoencoder(5, 20)
    start = copy.deepcopy(sae)
    history = train(sae, POOL, n_steps=101, n_logged=3, batch_size=32)
    assert history.step.tolist() == [0, 1, 10, 100]
    assert [tuple(field.shape) for field in history[1:]] == [(4,), (4,), (4, 20), (4, 20, 5)]
    assert torch.equal(history.W_dec[0], start.W_dec)
    first_batch = next(minibatches(POOL, 32, 101, seed=0))
    loss = start.loss(first_batch, 1e-3)
    assert history.reconstruction[0].item() == pytest.approx(loss.reconstruction.item())
    assert history.sparsity[0].item() == pytest.approx(loss.sparsity.item())
    fired = fires(start.encode(first_batch))
    assert torch.equal(history.rate[0], fired.float().mean(dim=0))
    assert history.l0[0].item() == pytest.approx(l0(start.encode(first_batch)))
    assert not any(field.requires_grad for field in history)
    assert history.reconstruction[-1] < history.reconstruction[0] / 10


@both
def test_same_seed_gives_identical_numbers_and_other_seeds_do_not(train):
    saes = [SparseAutoencoder(5, 20, seed=seed) for seed in (0, 0, 1, 0)]
    runs = [train(sae, POOL, n_steps=30, seed=s) for sae, s in zip(saes, (5, 5, 5, 6), strict=True)]
    assert all(map(torch.equal, runs[0], runs[1])) and same_weights(saes[0], saes[1])
    assert not torch.equal(saes[0].W_dec, saes[2].W_dec)  # other first weights
    assert not torch.equal(saes[0].W_dec, saes[3].W_dec)  # other batches


@both
@pytest.mark.parametrize("length", [1, 3])
def test_a_frozen_decoder_is_left_exactly_as_it_was(train, length):
    sae = SparseAutoencoder(5, 20)
    with torch.no_grad():
        sae.W_dec *= length
    before = copy.deepcopy(sae)
    sae.W_dec.requires_grad_(False)
    train(sae, POOL, n_steps=30)
    assert torch.equal(sae.W_dec, before.W_dec)
    assert not torch.isclose(sae.W_enc, before.W_enc).any()


@both
def test_training_leaves_the_pool_and_the_base_model_alone(train):
    model = ToyModel()
    activations = model.encode(model.sample_features(100))  # no torch.no_grad(): a common slip
    before = activations.detach().clone()
    train(SparseAutoencoder(5, 20), activations, n_steps=3)
    assert torch.equal(activations, before) and model.W.grad is None


@both
@pytest.mark.parametrize("of", ["float64", "numpy", "numpy float64"])
def test_activations_of_another_form_train_as_the_same_floats(train, of):
    other = POOL.double() if "64" in of else POOL
    saes = [SparseAutoencoder(5, 20) for _ in range(2)]
    train(saes[0], POOL, n_steps=20)
    train(saes[1], other.numpy() if "numpy" in of else other, n_steps=20)
    assert same_weights(*saes) and saes[1].W_dec.dtype == torch.float32


def test_numpys_numbers_and_sequences_serve_as_pythons():
    plain, numpys = ([SparseAutoencoder(5, 20, seed=i) for i in (1, 2)] for _ in range(2))
    settings = {"n_steps": 20, "l1_start": 0.25, "lr": 0.125, "batch_size": 8}
    train_saes(plain, POOL, l1_coefficient=[0.125, 0.5], seeds=range(2), **settings)
    numpys = [SparseAutoencoder(np.int64(5), np.int32(20), seed=np.uint8(i)) for i in (1, 2)]
    settings = {name: np.array(value)[()] for name, value in settings.items()}
    prices = np.array([0.125, 0.5], dtype=np.float32)
    train_saes(tuple(numpys), POOL, l1_coefficient=prices, seeds=np.arange(2), **settings)
    assert all(map(same_weights, plain, numpys))
    train_sae(plain[0], POOL, l1_coefficient=0.5, seed=3, n_steps=5)
    train_sae(numpys[0], POOL, l1_coefficient=np.float32(0.5), seed=np.int64(3), n_steps=5)
    assert same_weights(plain[0], numpys[0])


def test_weights_that_lie_otherwise_in_memory_train_alike():
    """A fused optimiser reads them one after the other, in whatever order they lie."""
    plain, transposed = (SparseAutoencoder(5, 20) for _ in range(2))
    transposed.W_enc = nn.Parameter(transposed.W_dec.detach().T.clone())
    assert not transposed.W_enc.is_contiguous()
    for sae in (plain, transposed):
        train_sae(sae, POOL, n_steps=20)
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(getattr(transposed, name), weight)


def test_one_pool_one_price_and_seed_zero_serve_all():
    shared, spelt_out = ([SparseAutoencoder(5, 20, seed=seed) for seed in (0, 1)] for _ in range(2))
    train_saes(shared, POOL, l1_coefficient=0.1, n_steps=20)
    pools = torch.stack([POOL, POOL])
    train_saes(spelt_out, pools, l1_coefficient=[0.1, 0.1], seeds=[0, 0], n_steps=20)
    assert all(map(same_weights, shared, spelt_out))
    assert not torch.equal(shared[0].W_dec, shared[1].W_dec)


def test_an_edited_loss_is_the_one_that_trains():
    class OnlyTheError(SparseAutoencoder):
        def loss(self, x, l1_coefficient):
            return super().loss(x, 0.0)

    saes = [kind(5, 20) for kind in (OnlyTheError, SparseAutoencoder, SparseAutoencoder)]
    for sae, price in zip(saes, (0.1, 0.0, 0.1), strict=True):
        train_one(sae, POOL, l1_coefficient=price, n_steps=20)
    assert same_weights(saes[0], saes[1]) and not same_weights(saes[0], saes[2])


@both
def test_a_run_that_diverges_says_so(train):
    with pytest.raises(FloatingPointError, match=r"ran away .* try a smaller lr"):
        train(SparseAutoencoder(5, 20), POOL, lr=1e30, n_steps=30)


def test_of_a_stack_one_run_that_diverges_is_enough_to_say_so():
    pools = torch.stack([POOL, 1e30 * POOL])
    with pytest.raises(FloatingPointError, match="ran away"):
        train_saes([SparseAutoencoder(5, 20, seed=seed) for seed in (0, 1)], pools, n_steps=30)


# --- end to end -------------------------------------------------------------------------


def mean_loss(sae, pool) -> float:
    return sae.loss(pool, 1e-3).total.item()


def assert_complete(sae, model, pool):
    """All ten features, at the oracle's loss, with a sparse code."""
    oracle = oracle_sae(model.feature_directions, 1e-3)
    x_hat, latent_acts = sae(pool)
    assert matched(sae, model).min() >= 0.99
    assert mean_loss(sae, pool) == pytest.approx(mean_loss(oracle, pool), rel=0.01)
    assert fvu(pool, x_hat) < 1e-4
    assert l0(latent_acts) < 1.5


def test_the_falling_price_recovers_all_ten_features_on_every_seed(trained):
    for sae, model, pool in zip(trained.saes, trained.models, trained.pools, strict=True):
        assert_complete(sae, model, pool)


def test_the_defaults_recover_all_ten_features(trained):
    sae = SparseAutoencoder(5, 20, seed=0)
    train_sae(sae, trained.pools[0])
    assert_complete(sae, trained.models[0], trained.pools[0])


def test_a_full_run_alone_comes_to_the_outcome_of_the_stack(trained):
    sae, pool = SparseAutoencoder(5, 20, seed=1), trained.pools[1]
    history = train_sae(sae, pool, seed=1, **FALLING_PRICE)
    assert torch.equal(history.step, trained.histories[1].step)
    assert agreement(live_directions(sae, pool), live_directions(trained.saes[1], pool)) == 1
    assert mean_loss(sae, pool) == pytest.approx(mean_loss(trained.saes[1], pool), rel=0.01)


def test_recovery_is_learned_and_not_there_from_the_start(trained):
    for history, model in zip(trained.histories, trained.models, strict=True):
        start, end = (
            match_features(cosine_similarity_matrix(W, model.feature_directions)).cosine
            for W in history.W_dec[[0, -1]]
        )
        assert (start >= 0.99).sum() <= 1 and (end >= 0.99).sum() == 10


def test_without_a_price_the_error_vanishes_but_the_features_are_not_found(trained):
    for sae, model, pool in zip(
        trained.saes_without_l1, trained.models, trained.pools, strict=False
    ):
        assert fvu(pool, sae(pool)[0]) < 1e-6
        assert (matched(sae, model) >= 0.99).sum() <= 3

"""Training: step by step against numpy, many against one, and the recovery of all features."""

import copy
import math

import numpy as np
import pytest
import torch

from sae_lib import (
    SAELoss,
    SparseAutoencoder,
    TopKSparseAutoencoder,
    ToyModel,
    agreement,
    cosine_similarity_matrix,
    fvu,
    l0,
    live_directions,
    match_features,
    oracle_sae,
    sae_loss,
    train_sae,
    train_saes,
)
from sae_lib.training import cosine_schedule, minibatches, steps_to_log

pytestmark = pytest.mark.usefixtures("global_random_state_untouched")
POOL = torch.rand(300, 5, generator=torch.Generator().manual_seed(0)) - 0.5


def train_one(sae, activations, *, seed=0, **settings):
    """train_sae by way of train_saes, so that one test can guard both."""
    return train_saes([sae], activations, seeds=[seed], **settings)[0]


both = pytest.mark.parametrize("train", [train_sae, train_one], ids=["train_sae", "train_saes"])


def assert_equal_weights(a, b, **tolerance):
    tolerance = tolerance or {"atol": 0, "rtol": 0}
    torch.testing.assert_close(a.state_dict(), b.state_dict(), **tolerance)


def recovered(sae, model) -> int:
    cosines = cosine_similarity_matrix(sae.W_dec, model.feature_directions)
    return int((match_features(cosines).cosine >= 0.99).sum())


def mean_loss(sae, pool) -> float:
    return sae_loss(pool, *sae(pool), l1_coefficient=1e-3).total.item()


# --- the parts --------------------------------------------------------------------------


def test_logged_steps_are_spaced_on_a_log_axis_with_both_ends():
    assert steps_to_log(101, 3) == {0, 1, 10, 100}
    assert 0 in steps_to_log(1, 60)
    assert steps_to_log(50, 1_000) == set(range(50))
    assert {0, 4_999} <= steps_to_log(5_000, 60) and 50 <= len(steps_to_log(5_000, 60)) <= 61
    assert {0, 9} <= steps_to_log(10, 1)


def test_learning_rate_falls_from_one_to_zero_along_half_a_cosine():
    rates = [cosine_schedule(step, 12) for step in range(13)]
    assert [rates[0], rates[4], rates[6], rates[12]] == pytest.approx([1, 0.75, 0.5, 0])
    assert rates == sorted(rates, reverse=True)


def test_minibatches_are_rows_of_the_pool_drawn_evenly():
    pool = torch.stack([torch.arange(50.0), -torch.arange(50.0)], dim=1)
    batches = list(minibatches(pool, batch_size=40, n_steps=250, seed=0))
    drawn = torch.stack(batches)
    assert drawn.shape == (250, 40, 2)
    assert torch.equal(drawn[..., 0], -drawn[..., 1])
    counts = torch.bincount(drawn[..., 0].flatten().long(), minlength=50)
    assert counts.min() > 200 - 5 * 200**0.5 and counts.max() < 200 + 5 * 200**0.5


def test_minibatches_repeat_with_their_seed_only():
    first, again, other = (
        torch.stack(list(minibatches(POOL, batch_size=4, n_steps=110, seed=s))) for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert (first != other).any(dim=(1, 2)).all()
    assert not torch.equal(first[:10], first[100:])  # the second hundred is drawn anew


# --- step by step -----------------------------------------------------------------------


def train_in_numpy(weights, batches, l1_coefficient, lr, betas, normalize):
    """AdamW without decay on gradients derived by hand; the history of (error, λ L1, L0)."""
    W_enc, b_enc, W_dec, b_dec = weights
    first, second = ([np.zeros_like(w) for w in weights] for _ in range(2))
    history = []
    for step, x in enumerate(batches):
        h = np.maximum(x @ W_enc + b_enc, 0)
        error = h @ W_dec + b_dec - x
        history.append(
            ((error**2).sum() / len(x), l1_coefficient * h.sum() / len(x), (h > 0).sum() / len(x))
        )
        d_x_hat = 2 * error / len(x)
        d_h = (d_x_hat @ W_dec.T + l1_coefficient / len(x)) * (h > 0)
        gradients = x.T @ d_h, d_h.sum(axis=0), h.T @ d_x_hat, d_x_hat.sum(axis=0)
        rate = lr * (1 + math.cos(math.pi * step / len(batches))) / 2
        for w, g, m, v in zip(weights, gradients, first, second, strict=True):
            m += (1 - betas[0]) * (g - m)
            v += (1 - betas[1]) * (g**2 - v)
            m_hat, v_hat = m / (1 - betas[0] ** (step + 1)), v / (1 - betas[1] ** (step + 1))
            w -= rate * m_hat / (np.sqrt(v_hat) + 1e-8)
        if normalize:
            W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    return np.array(history).T


@both
@pytest.mark.parametrize("normalize", [True, False])
def test_training_agrees_with_numpy_at_every_step(train, normalize):
    sae, pool = SparseAutoencoder(5, 20, seed=1).double(), POOL.double()
    weights = [sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec]
    expected = [w.detach().numpy().copy() for w in weights]
    batches = [x.numpy() for x in minibatches(pool, 16, 40, seed=2)]
    settings = {"l1_coefficient": 0.05, "lr": 0.02, "betas": (0.8, 0.95)}
    log = train_in_numpy(expected, batches, *settings.values(), normalize)
    history = train(
        sae,
        pool,
        **settings,
        n_steps=40,
        batch_size=16,
        normalize_decoder=normalize,
        seed=2,
        n_logged=500,
    )
    assert history.step.tolist() == list(range(40))
    for w, w_numpy in zip(weights, expected, strict=True):
        np.testing.assert_allclose(w.detach(), w_numpy, atol=1e-6)  # λ is single precision
    for logged, by_hand in zip((history.reconstruction, history.l1, history.l0), log, strict=True):
        np.testing.assert_allclose(logged, by_hand, rtol=1e-5)


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
def test_without_normalizing_the_lengths_drift(train):
    sae = SparseAutoencoder(5, 20)
    train(sae, POOL, n_steps=60, normalize_decoder=False)
    assert (sae.W_dec.norm(dim=-1) - 1).abs().max() > 0.1


@both
def test_history_shows_each_logged_step_before_its_update(train):
    sae = SparseAutoencoder(5, 20)
    start = sae.W_dec.detach().clone()
    history = train(sae, POOL, n_steps=101, n_logged=3)
    assert history.step.tolist() == [0, 1, 10, 100]
    assert [tuple(field.shape) for field in history[1:]] == [(4,), (4,), (4,), (4, 20, 5)]
    assert torch.equal(history.W_dec[0], start)
    assert not any(field.requires_grad for field in history)
    assert history.reconstruction[-1] < history.reconstruction[0] / 10


@both
def test_same_seed_gives_identical_numbers_and_other_seeds_do_not(train):
    saes = [SparseAutoencoder(5, 20, seed=seed) for seed in (0, 0, 1, 0)]
    runs = [train(sae, POOL, n_steps=30, seed=s) for sae, s in zip(saes, (5, 5, 5, 6), strict=True)]
    assert all(map(torch.equal, runs[0], runs[1]))
    assert_equal_weights(saes[0], saes[1])
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
    assert torch.equal(activations, before)
    assert model.W.grad is None


def test_topk_training_keeps_l0_at_most_k_at_every_step():
    history = train_sae(
        TopKSparseAutoencoder(5, 20, k=2), POOL, l1_coefficient=0, n_steps=60, n_logged=1_000
    )
    assert history.l0.max() <= 2
    assert history.reconstruction[-1] < history.reconstruction[0] / 4


# --- many at once -----------------------------------------------------------------------
# Rounding differs between the two and grows with every step, so a short run is compared weight
# by weight, and a full run by its outcome (below).


@pytest.mark.parametrize("k", [None, 2], ids=["L1", "TopK"])
def test_saes_trained_together_end_where_each_ends_alone(k):
    def new(seed):
        options = {"seed": seed} if k is None else {"seed": seed, "k": k}
        return (TopKSparseAutoencoder if k else SparseAutoencoder)(5, 20, **options)

    pools = torch.stack([POOL, 0.5 * POOL.flip(1), POOL.flip(0) + 0.1])
    coefficients, seeds = [1e-3, 0.0, 1e-1], [3, 4, 5]
    together, alone = ([new(seed) for seed in range(3)] for _ in range(2))
    histories = train_saes(
        together, pools, l1_coefficient=coefficients, seeds=seeds, n_steps=200, n_logged=20
    )
    for i, sae in enumerate(alone):
        history = train_sae(
            sae, pools[i], l1_coefficient=coefficients[i], seed=seeds[i], n_steps=200, n_logged=20
        )
        assert_equal_weights(together[i], sae, atol=1e-4, rtol=0)
        assert torch.equal(histories[i].step, history.step)
        torch.testing.assert_close(histories[i].W_dec, history.W_dec, atol=1e-4, rtol=0)
        # the error falls to 1e-5 and less, so differences of 1e-4 in the weights show in it
        for field in ("reconstruction", "l1"):
            torch.testing.assert_close(
                getattr(histories[i], field), getattr(history, field), atol=1e-4, rtol=0
            )


def test_one_pool_one_lambda_and_seed_zero_serve_all():
    shared, spelt_out = ([SparseAutoencoder(5, 20, seed=seed) for seed in (0, 1)] for _ in range(2))
    train_saes(shared, POOL, l1_coefficient=0.1, n_steps=20)
    train_saes(
        spelt_out, torch.stack([POOL, POOL]), l1_coefficient=[0.1, 0.1], seeds=[0, 0], n_steps=20
    )
    for a, b in zip(shared, spelt_out, strict=True):
        assert_equal_weights(a, b)
    assert not torch.equal(shared[0].W_dec, shared[1].W_dec)


def test_a_loss_of_your_own_is_the_one_that_trains():
    def only_the_error(x, x_hat, feature_acts, l1_coefficient):
        loss = sae_loss(x, x_hat, feature_acts, l1_coefficient)
        return SAELoss(loss.reconstruction, loss.reconstruction, 0 * loss.l1)

    own, without_l1, with_l1 = (SparseAutoencoder(5, 20) for _ in range(3))
    train_saes([own], POOL, loss=only_the_error, l1_coefficient=0.1, n_steps=20)
    train_saes([without_l1], POOL, l1_coefficient=0.0, n_steps=20)
    train_saes([with_l1], POOL, l1_coefficient=0.1, n_steps=20)
    assert_equal_weights(own, without_l1)
    assert not torch.isclose(own.W_dec, with_l1.W_dec).all()


# --- end to end -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_all_ten_features_are_recovered_on_every_seed(trained, seed):
    sae, model, pool = trained.saes[seed], trained.models[seed], trained.pools[seed]
    assert recovered(sae, model) == 10
    x_hat, feature_acts = sae(pool)
    oracle = oracle_sae(model.feature_directions, 1e-3)
    assert mean_loss(sae, pool) == pytest.approx(mean_loss(oracle, pool), rel=0.001)
    assert fvu(pool, x_hat) < 1e-5
    assert l0(feature_acts) < 2 * l0(trained.features[seed])


def test_recovery_is_learned_and_not_there_from_the_start(trained):
    for history, model in zip(trained.histories, trained.models, strict=True):
        start, end = (
            cosine_similarity_matrix(W, model.feature_directions) for W in history.W_dec[[0, -1]]
        )
        assert (match_features(start).cosine >= 0.99).sum() <= 1
        assert (match_features(end).cosine >= 0.99).sum() == 10


def test_a_full_run_alone_comes_to_the_same_outcome(trained):
    sae, pool = SparseAutoencoder(5, 20, seed=0), trained.pools[0]
    history = train_sae(sae, pool)
    assert history.step.tolist() == trained.histories[0].step.tolist()
    assert recovered(sae, trained.models[0]) == 10
    assert agreement(live_directions(sae, pool), live_directions(trained.saes[0], pool)) == 1
    assert mean_loss(sae, pool) == pytest.approx(mean_loss(trained.saes[0], pool), rel=0.001)


def test_without_l1_the_error_vanishes_but_the_features_are_not_found(trained):
    for i, sae in enumerate(trained.saes_without_l1):
        assert fvu(trained.pools[i], sae(trained.pools[i])[0]) < 1e-9
        assert recovered(sae, trained.models[i]) <= 3


# --- bad input --------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
SHORT = {"n_steps": 2}


@both
@pytest.mark.parametrize(
    ("activations", "settings", "error", "message"),
    [
        (POOL[:0], {}, ValueError, r"activations is empty: its shape is \(0, 5\)"),
        (POOL[:, :4], {}, ValueError, r"activations must have shape \(.*5\), but \(300, 4\)"),
        (POOL[0], {}, ValueError, r"activations must have shape .* but \(5,\) came"),
        (POOL[None, None], {}, ValueError, r"activations must have shape .*\(1, 1, 300, 5\)"),
        (POOL * NAN, {}, ValueError, "activations holds NaN or infinite"),
        (POOL * INF, {}, ValueError, "activations holds NaN or infinite"),
        (POOL.long(), {}, TypeError, r"activations must hold floats, but torch.int64"),
        (POOL.numpy(), {}, TypeError, "activations must be a torch.Tensor, but a ndarray"),
        (POOL, {"l1_coefficient": -0.1}, ValueError, "l1_coefficient must be finite and not neg"),
        (POOL, {"l1_coefficient": NAN}, ValueError, "l1_coefficient must be finite"),
        (POOL, {"l1_coefficient": True}, TypeError, "l1_coefficient must be a number, but a bool"),
        (POOL, {"l1_coefficient": torch.tensor(0.1)}, TypeError, "l1_coefficient must be a number"),
        (POOL, {"lr": -1.0}, ValueError, "lr must be finite and not negative"),
        (POOL, {"lr": INF}, ValueError, "lr must be finite"),
        (POOL, {"n_steps": 0}, ValueError, "n_steps must be at least 1, but 0"),
        (POOL, {"n_steps": 1e3}, TypeError, "n_steps must be an int, but a float"),
        (POOL, {"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        (POOL, {"n_logged": 0}, ValueError, "n_logged must be at least 1"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(train, activations, settings, error, message):
    sae = SparseAutoencoder(5, 20)
    with pytest.raises(error, match=message):
        train(sae, activations, **SHORT | settings)
    assert_equal_weights(sae, SparseAutoencoder(5, 20))  # and nothing was trained


def test_train_sae_takes_one_pool_only():
    with pytest.raises(ValueError, match=r"must have shape \(rows, 5\), but \(2, 300, 5\)"):
        train_sae(SparseAutoencoder(5, 20), torch.stack([POOL, POOL]), n_steps=2)


NEW, OTHER_WIDTH = SparseAutoencoder(5, 20), SparseAutoencoder(5, 21)
TOP2, TOP3 = (TopKSparseAutoencoder(5, 20, k=k) for k in (2, 3))


@pytest.mark.parametrize(
    ("saes", "settings", "message"),
    [
        ([], {}, "n_saes must be at least 1, but 0"),
        ([NEW, NEW], {"activations": POOL[None]}, "2 SAEs need as many pools, but 1 came"),
        ([NEW], {"l1_coefficient": [0.1, 0.1]}, "1 SAEs need as many λs, but 2 came"),
        ([NEW], {"l1_coefficient": [-0.1]}, "l1_coefficient must be finite and not negative"),
        ([NEW, NEW], {"seeds": [1]}, "2 SAEs need as many seeds, but 1 came"),
        ([NEW, OTHER_WIDTH], {}, "one class, one shape and one k"),
        ([NEW, TOP2], {}, "one class, one shape and one k"),
        ([TOP2, TOP3], {}, "one class, one shape and one k"),
    ],
)
def test_saes_that_do_not_fit_together_are_refused(saes, settings, message):
    with pytest.raises(ValueError, match=message):
        train_saes(saes, **{"activations": POOL, **SHORT, **settings})

"""Training: step by step against a plain loop; what always holds; all features recovered."""

import math

import numpy as np
import pytest
import torch
from variants import same_weights

from sae_lib import (
    SparseAutoencoder,
    TopKSparseAutoencoder,
    train_saes,
)
from sae_lib.training import TrainingHistory, minibatches, price_schedule, train_sae

pytestmark = pytest.mark.usefixtures("global_random_state_untouched")
POOL = torch.rand(300, 5, generator=torch.Generator().manual_seed(0)) - 0.5


@pytest.mark.parametrize(
    ("n_steps", "n_logged", "steps"),
    [(101, 3, {0, 9, 100}), (100, 2, {0, 99}), (1, 60, {0}), (3, 10**7, {0, 1, 2})],
)
def test_logged_steps_are_spaced_on_a_log_axis_with_both_ends(n_steps, n_logged, steps):
    assert TrainingHistory(None, [0.0] * n_steps, 1, n_logged).steps_to_log == steps


def test_the_price_falls_by_equal_factors_over_three_fifths_of_the_steps_and_then_stays():
    prices = price_schedule(0.001, 0.064, 10)
    assert prices == pytest.approx([0.064, 0.032, 0.016, 0.008, 0.004, 0.002] + [0.001] * 4)
    assert price_schedule(0.3, None, 2) == [0.3, 0.3]


def test_minibatches_are_rows_of_the_pool_drawn_evenly_and_repeat_with_their_seed_only():
    pool = torch.stack([torch.arange(50.0), -torch.arange(50.0)], dim=1)
    first, again, other = (torch.stack([*minibatches(pool, 40, 250, s)]) for s in (0, 0, 1))
    assert first.shape == (250, 40, 2) and torch.equal(first, again)
    assert (first != other).any(dim=(1, 2)).all()
    assert torch.equal(first[..., 0], -first[..., 1])
    counts = torch.bincount(first[..., 0].flatten().long(), minlength=50)
    assert counts.min() > 200 - 5 * 200**0.5 and counts.max() < 200 + 5 * 200**0.5


def train_plainly(weights, batches, prices, lr, betas, normalize, k):
    """The loop in plain lines, for one SAE: at each step (error, λ L1, L0), and the decoder."""
    W_enc, b_enc, W_dec, b_dec = weights
    optimizer = torch.optim.AdamW(weights, betas=betas, weight_decay=0)
    history, decoders = [], []
    for step, (x, price) in enumerate(zip(batches, prices, strict=True)):
        h = torch.relu(x @ W_enc + b_enc)
        if k:
            h = h * (h >= h.sort(dim=1).values[:, [-k]])
        error = ((h @ W_dec + b_dec - x) ** 2).sum() / len(x)
        l1 = price * h.sum() / len(x)
        history.append([error.item(), l1.item(), (h > 0.01).sum().item() / len(x)])
        decoders.append(W_dec.detach().clone())
        optimizer.zero_grad()
        (error + l1).backward()
        optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / len(batches))) / 2
        optimizer.step()
        if normalize:
            W_dec.data /= W_dec.data.norm(dim=1, keepdim=True)
    return np.array(history).T, torch.stack(decoders)


@pytest.mark.parametrize(
    ("l1_start", "normalize", "k"),
    [(None, True, None), (None, False, None), (0.4, True, None), (None, True, 2)],
    ids=["constant price", "free lengths", "falling price", "TopK"],
)
def test_training_agrees_with_a_plain_loop_at_every_step(l1_start, normalize, k):
    sae = TopKSparseAutoencoder(5, 20, k=k, seed=1) if k else SparseAutoencoder(5, 20, seed=1)
    sae, pool = sae.double(), POOL.double()
    plain = [w.detach().clone().requires_grad_() for w in sae.parameters()]
    batches = list(minibatches(pool, 16, 40, seed=2))
    prices = [0.0 if k else 0.05] * 40
    if l1_start:
        prices = [0.05 * 8 ** (1 - step / 24) for step in range(24)] + [0.05] * 16
    log, decoders = train_plainly(plain, batches, prices, 0.02, (0.8, 0.95), normalize, k)
    settings = {"l1_coefficient": 0.05, "l1_start": l1_start, "normalize_decoder": normalize}
    settings |= {"n_steps": 40, "batch_size": 16, "lr": 0.02, "betas": (0.8, 0.95), "seed": 2}
    history = train_sae(sae, pool, **settings, n_logged=1_000)
    for w, w_plain in zip(sae.parameters(), plain, strict=True):
        torch.testing.assert_close(w, w_plain, atol=1e-9, rtol=0)
    assert history.sae is sae and history.batch_size == 16 and len(history.step) > 20
    assert history.prices == pytest.approx([0.05] * 40 if k else prices)
    curves = history.reconstruction, history.sparsity, history.l0
    for logged, by_hand in zip(curves, log[:, history.step], strict=True):
        np.testing.assert_allclose(np.array(logged), by_hand, rtol=1e-6)
    torch.testing.assert_close(
        torch.stack(history.W_dec), decoders[history.step], atol=1e-9, rtol=0
    )
    assert not history.W_dec[0].requires_grad


def test_the_seed_decides_and_not_the_form_of_the_activations_which_are_left_alone():
    pool = POOL.bfloat16().float().requires_grad_()  # no torch.no_grad(): a common slip
    given = [
        (pool, 5),
        (pool.double(), 5),
        (pool.detach().numpy(), 5),
        (pool.bfloat16(), 5),
        (pool, 6),
    ]
    first, *same, other = saes = [SparseAutoencoder(5, 20) for _ in given]
    for sae, (activations, seed) in zip(saes, given, strict=True):
        train_sae(sae, activations, n_steps=20, seed=seed)
    assert all(same_weights(first, sae) and sae.W_dec.dtype == torch.float32 for sae in same)
    assert not torch.equal(first.W_dec, other.W_dec)
    assert torch.equal(pool, POOL.bfloat16().float()) and pool.grad is None


def test_a_run_that_diverges_says_so_and_one_of_a_stack_is_enough():
    with pytest.raises(FloatingPointError, match=r"ran away .* try a smaller lr"):
        train_sae(SparseAutoencoder(5, 20), POOL, lr=1e30, n_steps=30)
    pools = torch.stack([POOL, 1e30 * POOL])
    with pytest.raises(FloatingPointError, match="ran away"):
        train_saes([SparseAutoencoder(5, 20, seed=s) for s in (0, 1)], pools)

"""The SAE against numbers worked out by hand; its loss; its start; TopK."""

import pytest
import torch
from variants import in_general_position, with_weights

from sae_lib import SparseAutoencoder, TopKSparseAutoencoder, l0, random_directions, sae_loss

pytestmark = pytest.mark.usefixtures("global_random_state_untouched")


def test_each_bias_the_relu_and_that_latent_i_writes_row_i_of_the_decoder():
    weights = {"W_enc": torch.eye(2), "W_dec": [[1.0, 2.0], [3.0, 4.0]], "b_enc": [-1.0, 0.5]}
    sae = with_weights(SparseAutoencoder(2, 2), **weights, b_dec=[10.0, 20.0])
    x_hat, latent_acts = sae(torch.tensor([[3.0, -4.0], [0.0, 2.0]]))
    assert latent_acts.tolist() == [[2.0, 0.0], [0.0, 2.5]]  # 3 - 1, and nothing below zero
    assert x_hat.tolist() == [[12.0, 24.0], [17.5, 30.0]]  # 2 · row 0 and 2.5 · row 1, and b_dec


def test_loss_of_one_small_batch():
    x, x_hat = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 4.0], [3.0, 1.0]])
    latent_acts = torch.tensor([[1.0, 0.0, 2.0], [0.0, 5.0, 0.0]])
    loss = sae_loss(x, x_hat, latent_acts, l1_coefficient=0.5)
    assert loss.reconstruction == 7.0  # (0 + 4) and (9 + 1): summed, then averaged over the rows
    assert loss.sparsity == 2.0  # half of the mean of 3 and 5
    assert loss.total == 9.0


def test_topk_keeps_the_strongest_after_the_relu_even_of_equals_and_has_no_price():
    sae = with_weights(TopKSparseAutoencoder(4, 4, k=2), W_enc=torch.eye(4))
    x = torch.tensor([[1.0, 4.0, 3.0, 2.0], [-1.0, -2.0, 5.0, -3.0]])
    assert sae.encode(x).tolist() == [[0.0, 4.0, 3.0, 0.0], [0.0, 0.0, 5.0, 0.0]]
    assert l0(sae.encode(torch.ones(4, 4))) == 2
    error = (x - sae(x)[0]).square().sum() / 2
    for loss in (sae.loss(x), sae.loss(x, l1_coefficient=100.0)):
        assert loss.sparsity == 0
        assert loss.total.item() == loss.reconstruction.item() == pytest.approx(error.item())


def test_new_sae_reads_along_its_unit_directions_and_has_no_biases():
    sae = SparseAutoencoder(5, 20, seed=3)
    shapes = {name: tuple(w.shape) for name, w in sae.named_parameters()}
    assert shapes == {"W_enc": (5, 20), "b_enc": (20,), "W_dec": (20, 5), "b_dec": (5,)}
    assert torch.equal(sae.W_dec, random_directions(20, 5, seed=3))
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(20))
    assert not torch.isclose(sae.W_dec, SparseAutoencoder(5, 20, seed=4).W_dec).any()
    assert torch.equal(sae.W_enc, 0.5 * sae.W_dec.T)  # 2 · 5 / 20
    x = random_directions(1_000, 5, seed=1)
    x_hat, latent_acts = sae(x)
    assert (x_hat - x).norm(dim=1).mean() < 0.8 and x_hat.norm(dim=1).mean() < 1.2
    assert (latent_acts > 0).float().mean() == pytest.approx(0.5, abs=0.02)
    assert sae.W_enc.is_contiguous()  # a fused optimiser reads weights in the order they lie in
    assert not sae.b_enc.any() and not sae.b_dec.any()
    with_weights(sae, W_dec=torch.zeros(20, 5))
    assert sae.W_enc.any()  # they share no memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_normalizing_changes_lengths_and_nothing_else_and_leaves_zero_rows(dtype):
    sae = in_general_position(SparseAutoencoder(2, 3)).to(dtype)
    with_weights(sae, W_dec=torch.tensor([[3, 4], [0, 0], [0, -9]]))
    kept = {name: w.clone() for name, w in sae.named_parameters() if name != "W_dec"}
    sae.normalize_decoder_()
    torch.testing.assert_close(sae.W_dec, torch.tensor([[0.6, 0.8], [0, 0], [0, -1]], dtype=dtype))
    assert all(torch.equal(getattr(sae, name), w) for name, w in kept.items())
    assert sae.W_dec.requires_grad

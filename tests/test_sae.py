"""The SAE against numbers worked out by hand and by numpy; its loss; TopK; files."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sae_lib import (
    SparseAutoencoder,
    TopKSparseAutoencoder,
    l0,
    load_sae,
    random_directions,
    sae_loss,
    save_sae,
)

pytestmark = pytest.mark.usefixtures("global_random_state_untouched")
X = random_directions(64, 5, seed=1)


def with_weights(sae, **weights):
    """The SAE with the named weights replaced."""
    with torch.no_grad():
        for name, values in weights.items():
            getattr(sae, name).copy_(torch.tensor(values))
    return sae


def in_general_position(sae):
    """The SAE with no weight left at its initial value."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in sae.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return sae


# --- by hand ----------------------------------------------------------------------------


def test_identity_weights_show_each_bias_and_the_relu():
    sae = with_weights(
        SparseAutoencoder(2, 2),
        W_enc=[[1.0, 0.0], [0.0, 1.0]],
        b_enc=[-1.0, 0.5],
        W_dec=[[1.0, 0.0], [0.0, 1.0]],
        b_dec=[10.0, 20.0],
    )
    x_hat, feature_acts = sae(torch.tensor([[3.0, -4.0], [0.0, 2.0]]))
    assert feature_acts.tolist() == [[2.0, 0.0], [0.0, 2.5]]  # 3 - 1, and nothing below zero
    assert x_hat.tolist() == [[12.0, 20.0], [10.0, 22.5]]


def test_row_i_of_the_decoder_is_what_latent_i_writes():
    sae = with_weights(SparseAutoencoder(3, 2), W_dec=[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert sae.decode(torch.tensor([[0.0, 2.0]])).tolist() == [[8.0, 10.0, 12.0]]


def test_loss_of_one_small_batch():
    x, x_hat = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 4.0], [3.0, 1.0]])
    feature_acts = torch.tensor([[1.0, 0.0, 2.0], [0.0, 5.0, 0.0]])
    loss = sae_loss(x, x_hat, feature_acts, l1_coefficient=0.5)
    assert loss.reconstruction == 7.0  # (0 + 4) and (9 + 1), averaged over the two rows
    assert loss.l1 == 2.0  # half of the mean of 3 and 5
    assert loss.total == 9.0


def test_error_is_summed_over_dimensions_so_lambda_means_the_same_in_any_width():
    for d_in in (1, 5):
        loss = sae_loss(torch.zeros(4, d_in), torch.ones(4, d_in), torch.zeros(4, 1), 1.0)
        assert loss.total == d_in


def test_topk_keeps_the_strongest_after_the_relu():
    sae = with_weights(TopKSparseAutoencoder(4, 4, k=2), W_enc=np.eye(4, dtype=np.float32))
    x = torch.tensor([[1.0, 4.0, 3.0, 2.0], [-1.0, -2.0, 5.0, -3.0]])
    assert sae.encode(x).tolist() == [[0.0, 4.0, 3.0, 0.0], [0.0, 0.0, 5.0, 0.0]]


def test_topk_keeps_k_even_of_equally_strong_latents():
    sae = with_weights(TopKSparseAutoencoder(1, 3, k=2), W_enc=[[1.0, 1.0, 1.0]])
    assert l0(sae.encode(torch.ones(4, 1))) == 2


# --- what always holds ------------------------------------------------------------------


def test_new_sae_has_unit_directions_read_by_their_own_transpose_and_no_biases():
    sae = SparseAutoencoder(5, 20)
    assert {name: tuple(w.shape) for name, w in sae.named_parameters()} == {
        "W_enc": (5, 20),
        "b_enc": (20,),
        "W_dec": (20, 5),
        "b_dec": (5,),
    }
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(20))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert not sae.b_enc.any() and not sae.b_dec.any()


def test_encoder_and_decoder_share_no_memory():
    sae = SparseAutoencoder(5, 20)
    with_weights(sae, W_dec=np.zeros((20, 5), dtype=np.float32))
    assert sae.W_enc.any()


def test_normalizing_changes_lengths_and_nothing_else():
    sae = with_weights(
        in_general_position(SparseAutoencoder(2, 3)), W_dec=[[3, 4], [0, 0], [0, -9]]
    )
    kept = {name: w.clone() for name, w in sae.named_parameters() if name != "W_dec"}
    sae.normalize_decoder_()
    torch.testing.assert_close(sae.W_dec, torch.tensor([[0.6, 0.8], [0, 0], [0, -1]]))
    assert all(torch.equal(getattr(sae, name), w) for name, w in kept.items())
    assert sae.W_dec.requires_grad


def test_any_number_of_leading_axes_gives_the_same_numbers():
    sae = in_general_position(SparseAutoencoder(5, 7))
    for together, apart in zip(sae(X.view(4, 16, 5)), sae(X), strict=True):
        torch.testing.assert_close(together.flatten(0, 1), apart)


@pytest.mark.parametrize("k", [1, 3, 20])
def test_topk_never_fires_more_than_k(k):
    topk, plain = (
        in_general_position(sae)
        for sae in (TopKSparseAutoencoder(5, 20, k=k), SparseAutoencoder(5, 20))
    )
    kept, all_acts = topk.encode(X), plain.encode(X)
    n_firing = (all_acts > 0).sum(dim=1)
    assert torch.equal((kept > 0).sum(dim=1), n_firing.clamp_max(k))
    assert torch.equal(kept.max(dim=1).values, all_acts.max(dim=1).values)
    assert torch.equal(kept[kept > 0], all_acts[kept > 0])


def test_same_seed_same_weights_and_another_seed_others():
    first, again, other = (SparseAutoencoder(5, 20, seed=seed).W_dec for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).any()


# --- against numpy ----------------------------------------------------------------------


def test_forward_and_loss_agree_with_numpy():
    sae = in_general_position(SparseAutoencoder(5, 20))
    W_enc, b_enc, W_dec, b_dec = (
        getattr(sae, name).detach().double().numpy()
        for name in ("W_enc", "b_enc", "W_dec", "b_dec")
    )
    x = X.double().numpy()
    h = np.maximum(x @ W_enc + b_enc, 0)
    x_hat = np.einsum("bi,ij->bj", h, W_dec) + b_dec
    squared = ((x - x_hat) ** 2).sum() / len(x)
    loss = sae_loss(X, *sae(X), l1_coefficient=0.1)
    np.testing.assert_allclose(sae(X)[1].detach(), h, atol=1e-6)
    np.testing.assert_allclose(sae(X)[0].detach(), x_hat, atol=1e-6)
    np.testing.assert_allclose(
        [x.item() for x in loss],
        [squared + 0.1 * h.sum() / len(x), squared, 0.1 * h.sum() / len(x)],
        rtol=1e-6,
    )


# --- files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sae", [SparseAutoencoder(5, 20), TopKSparseAutoencoder(5, 20, k=3)], ids=["L1", "TopK"]
)
def test_saved_sae_comes_back_the_same(sae, tmp_path):
    sae = in_general_position(sae)
    save_sae(sae, tmp_path / "sae.safetensors")
    loaded = load_sae(str(tmp_path / "sae.safetensors"))
    assert type(loaded) is type(sae)
    assert getattr(loaded, "k", None) == getattr(sae, "k", None)
    assert all(map(torch.equal, loaded(X), sae(X)))


def test_saving_replaces_a_file_only_when_told_to(tmp_path):
    path = tmp_path / "sae.safetensors"
    path.write_text("years of work")
    with pytest.raises(FileExistsError, match=r"exists already; pass overwrite=True"):
        save_sae(SparseAutoencoder(5, 20), path)
    assert path.read_text() == "years of work"
    save_sae(SparseAutoencoder(5, 20), path, overwrite=True)
    assert load_sae(path).W_dec.shape == (20, 5)


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("dump", "unsafe_load"),
    [
        (
            lambda trap, path: path.write_bytes(pickle.dumps(trap)),
            lambda path: pickle.loads(path.read_bytes()),
        ),
        (torch.save, lambda path: torch.load(path, weights_only=False)),
    ],
    ids=["pickle", "torch.save"],
)
def test_loading_a_pickle_runs_none_of_its_code(dump, unsafe_load, tmp_path):
    path, sprung = tmp_path / "sae.pt", tmp_path / "sprung"
    dump(Trap(sprung), path)
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_sae(path)
    assert not sprung.exists()
    unsafe_load(path)
    assert sprung.exists()  # the trap works: only load_sae did not step on it


WEIGHTS = SparseAutoencoder(5, 20).state_dict()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"W": torch.ones(2, 2)}, r"holds \['W'\], not the four weights of an SAE"),
        (WEIGHTS | {"extra": torch.ones(1)}, "not the four weights of an SAE"),
        (WEIGHTS | {"W_dec": torch.ones(20)}, "not the four weights of an SAE"),
        (WEIGHTS | {"b_enc": torch.ones(19)}, "shapes do not fit together"),
    ],
    ids=["of another model", "one too many", "a flat decoder", "a short bias"],
)
def test_loading_refuses_other_weights(weights, message, tmp_path):
    save_file({name: w.contiguous() for name, w in weights.items()}, tmp_path / "file")
    with pytest.raises(ValueError, match=message):
        load_sae(tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 64])
def test_loading_refuses_garbage(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_sae(tmp_path / "file")


@pytest.mark.parametrize("name", ["absent", "."], ids=["no file", "a folder"])
def test_loading_says_when_there_is_no_file(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        load_sae(tmp_path / name)


# --- bad input --------------------------------------------------------------------------

SAE = SparseAutoencoder(5, 20)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SparseAutoencoder(0, 20), ValueError, "d_in must be at least 1, but 0"),
        (lambda: SparseAutoencoder(5, -1), ValueError, "d_sae must be at least 1, but -1"),
        (lambda: SparseAutoencoder(5.0, 20), TypeError, "d_in must be an int, but a float"),
        (lambda: TopKSparseAutoencoder(5, 20, k=0), ValueError, "k must be at least 1"),
        (lambda: TopKSparseAutoencoder(5, 20, k=21), ValueError, "k must be at most d_sae=20"),
        (lambda: SAE(X[:, :4]), ValueError, r"x must have shape \(..., 5\), but \(64, 4\)"),
        (lambda: SAE(X.numpy()), TypeError, "x must be a torch.Tensor, but a ndarray"),
        (lambda: SAE(X.long()), TypeError, r"x must hold floats, .* try x.float\(\)"),
        (lambda: SAE.decode(X), ValueError, r"feature_acts must have shape \(..., 20\)"),
        (lambda: SAE.decode(torch.ones(20).int()), TypeError, "feature_acts must hold floats"),
        (lambda: sae_loss(X, X[:1], X, 0.1), ValueError, r"x \(64, 5\), x_hat \(1, 5\)"),
        (lambda: sae_loss(X, X[:, :1], X, 0.1), ValueError, "x and x_hat must have the same shape"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, error, message):
    with pytest.raises(error, match=message):
        call()

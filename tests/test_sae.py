"""The SAE against numbers worked out by hand and by numpy; its loss; TopK; files."""

import gc
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from variants import in_general_position

import sae_lib.sae
from sae_lib import (
    SparseAutoencoder,
    TopKSparseAutoencoder,
    l0,
    load_sae,
    random_directions,
    sae_loss,
    save_sae,
)
from sae_lib.stacking import stack_modules

pytestmark = pytest.mark.usefixtures("global_random_state_untouched")
X = random_directions(64, 5, seed=1)


def with_weights(sae, **weights):
    """The SAE with the named weights replaced."""
    with torch.no_grad():
        for name, values in weights.items():
            getattr(sae, name).copy_(torch.as_tensor(values))
    return sae


# --- by hand ----------------------------------------------------------------------------


def test_identity_weights_show_each_bias_and_the_relu():
    sae = with_weights(
        SparseAutoencoder(2, 2),
        W_enc=torch.eye(2),
        b_enc=[-1.0, 0.5],
        W_dec=torch.eye(2),
        b_dec=[10.0, 20.0],
    )
    x_hat, latent_acts = sae(torch.tensor([[3.0, -4.0], [0.0, 2.0]]))
    assert latent_acts.tolist() == [[2.0, 0.0], [0.0, 2.5]]  # 3 - 1, and nothing below zero
    assert x_hat.tolist() == [[12.0, 20.0], [10.0, 22.5]]


def test_row_i_of_the_decoder_is_what_latent_i_writes():
    sae = with_weights(SparseAutoencoder(3, 2), W_dec=[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert sae.decode(torch.tensor([[0.0, 2.0]])).tolist() == [[8.0, 10.0, 12.0]]


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


# --- what always holds ------------------------------------------------------------------


def test_new_sae_has_unit_directions_read_by_their_own_transpose_and_no_biases():
    sae = SparseAutoencoder(5, 20)
    shapes = {name: tuple(w.shape) for name, w in sae.named_parameters()}
    assert shapes == {"W_enc": (5, 20), "b_enc": (20,), "W_dec": (20, 5), "b_dec": (5,)}
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(20))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert not sae.b_enc.any() and not sae.b_dec.any()
    with_weights(sae, W_dec=torch.zeros(20, 5))
    assert sae.W_enc.any()  # they share no memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_normalizing_changes_lengths_and_nothing_else_and_leaves_zero_rows(dtype):
    sae = in_general_position(SparseAutoencoder(2, 3)).to(dtype)
    with_weights(sae, W_dec=torch.tensor([[3, 4], [0, 0], [0, -9]]))
    kept = {name: w.clone() for name, w in sae.named_parameters() if name != "W_dec"}
    sae.normalize_decoder_()
    torch.testing.assert_close(sae.W_dec, torch.tensor([[0.6, 0.8], [0, 0], [0, -1]], dtype=dtype))
    assert all(torch.equal(getattr(sae, name), w) for name, w in kept.items())
    assert sae.W_dec.requires_grad


@pytest.mark.parametrize("k", [1, 3, 20])
def test_topk_never_fires_more_than_k(k):
    topk, plain = (
        in_general_position(sae)
        for sae in (TopKSparseAutoencoder(5, 20, k=k), SparseAutoencoder(5, 20))
    )
    kept, all_acts = topk.encode(X), plain.encode(X)
    assert torch.equal((kept > 0).sum(dim=1), (all_acts > 0).sum(dim=1).clamp_max(k))
    assert torch.equal(kept.max(dim=1).values, all_acts.max(dim=1).values)
    assert torch.equal(kept[kept > 0], all_acts[kept > 0])


@pytest.mark.parametrize("k", [None, 2], ids=["L1", "TopK"])
def test_a_stack_computes_row_by_row_what_each_computes_alone(k):
    def new(seed):
        sae = TopKSparseAutoencoder(5, 7, k=k) if k else SparseAutoencoder(5, 7, seed=seed)
        return with_weights(in_general_position(sae), b_dec=torch.full((5,), float(seed)))

    saes = [new(seed) for seed in range(3)]
    stack, prices = stack_modules(saes), torch.tensor([0.0, 0.1, 1.0])
    x = X[:60].view(3, 20, 5)
    together = (*stack(x), *stack.loss(x, prices))
    stack.normalize_decoder_()
    for i, sae in enumerate(saes):
        for many, one in zip(together, (*sae(x[i]), *sae.loss(x[i], prices[i])), strict=True):
            torch.testing.assert_close(many[i], one)
        sae.normalize_decoder_()
        torch.testing.assert_close(stack.W_dec[i], sae.W_dec)


def test_same_seed_same_directions_and_another_seed_others():
    first, again, other = (SparseAutoencoder(5, 20, seed=seed).W_dec for seed in (3, 3, 4))
    assert torch.equal(first, again) and torch.equal(first, random_directions(20, 5, seed=3))
    assert not torch.isclose(first, other).any()


# --- against numpy ----------------------------------------------------------------------


def test_forward_and_loss_agree_with_numpy():
    sae = in_general_position(SparseAutoencoder(5, 20))
    W_enc, b_enc, W_dec, b_dec = (w.detach().double().numpy() for w in sae.parameters())
    x = X.double().numpy()
    h = np.maximum(x @ W_enc + b_enc, 0)
    x_hat = np.einsum("bi,ij->bj", h, W_dec) + b_dec
    error, price = ((x - x_hat) ** 2).sum() / len(x), 0.1 * h.sum() / len(x)
    np.testing.assert_allclose(sae(X)[1].detach(), h, atol=1e-6)
    np.testing.assert_allclose(sae(X)[0].detach(), x_hat, atol=1e-6)
    loss = [number.item() for number in sae.loss(X, l1_coefficient=0.1)]
    np.testing.assert_allclose(loss, [error + price, error, price], rtol=1e-6)


# --- files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sae",
    [
        SparseAutoencoder(5, 20),
        TopKSparseAutoencoder(5, 20, k=3),
        TopKSparseAutoencoder(5, 20, k=np.int64(3)),
        SparseAutoencoder(5, 20).half(),
    ],
    ids=["L1", "TopK", "TopK with NumPy's k", "half precision"],
)
def test_saved_sae_comes_back_the_same(sae, tmp_path):
    sae = in_general_position(sae)
    save_sae(sae, tmp_path / "sae.safetensors")
    loaded = load_sae(str(tmp_path / "sae.safetensors"))
    assert type(loaded) is type(sae)
    assert getattr(loaded, "k", None) == getattr(sae, "k", None)
    for name, weight in sae.named_parameters():
        assert torch.equal(getattr(loaded, name), weight)
        assert getattr(loaded, name).dtype == weight.dtype
        assert getattr(loaded, name).requires_grad
    assert [path.name for path in tmp_path.iterdir()] == ["sae.safetensors"]


@pytest.mark.parametrize("k", ["", "3"])
def test_a_file_of_the_first_edition_can_be_read(k, tmp_path):
    sae = TopKSparseAutoencoder(5, 20, k=int(k)) if k else SparseAutoencoder(5, 20)
    sae = in_general_position(sae)
    save_file(sae.state_dict(), tmp_path / "old", metadata={"k": k})
    loaded = load_sae(tmp_path / "old")
    assert type(loaded) is type(sae) and torch.equal(loaded(X)[0], sae(X)[0])


def test_saving_replaces_a_file_only_when_told_to(tmp_path):
    path = tmp_path / "sae.safetensors"
    path.write_text("years of work")
    with pytest.raises(FileExistsError, match=r"exists already; pass overwrite=True"):
        save_sae(SparseAutoencoder(5, 20), path)
    assert path.read_text() == "years of work"
    save_sae(SparseAutoencoder(5, 20), path, overwrite=True)
    assert load_sae(path).W_dec.shape == (20, 5)


@pytest.mark.parametrize("when", ["writing", "reading back", "replacing"])
@pytest.mark.parametrize("crash", [OSError("disk full"), KeyboardInterrupt()])
def test_a_crash_while_overwriting_spoils_nothing(crash, when, tmp_path, monkeypatch):
    def crashing(*arguments, **options):
        if when == "writing":
            Path(arguments[1]).write_bytes(b"half")
        raise crash

    owner, name = {
        "writing": (sae_lib.sae, "save_file"),
        "reading back": (sae_lib.sae, "load_sae"),
        "replacing": (Path, "replace"),
    }[when]
    path = tmp_path / "sae.safetensors"
    path.write_text("years of work")
    monkeypatch.setattr(owner, name, crashing)
    with pytest.raises(type(crash)):
        save_sae(SparseAutoencoder(5, 20), path, overwrite=True)
    assert path.read_text() == "years of work"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


class Forgetful(SparseAutoencoder):
    """Its constructor needs something that the instance does not keep."""

    def __init__(self, d_in, d_sae, *, scale):
        super().__init__(d_in, d_sae)


def counting(n):
    sae = SparseAutoencoder(5, 20)
    sae.n_calls = n
    return sae


HOLED = with_weights(SparseAutoencoder(5, 20), b_enc=torch.full((20,), float("nan")))


@pytest.mark.parametrize(
    ("thing", "name", "error", "message"),
    [
        (torch.nn.Linear(2, 2), "file", TypeError, "saves a SparseAutoencoder, but a Linear came"),
        (X, "file", TypeError, "saves a SparseAutoencoder, but a Tensor came"),
        (None, "file", TypeError, "saves a SparseAutoencoder, but a NoneType came"),
        (stack_modules([SparseAutoencoder(5, 20)]), "file", ValueError, "a stack of SAEs; save th"),
        (SparseAutoencoder(5, 20), "no folder/file", FileNotFoundError, "no folder does not exist"),
        (SparseAutoencoder(5, 20), ".", IsADirectoryError, "is a folder; give the name of a file"),
        (counting(3), "file", ValueError, "A SparseAutoencoder cannot be saved: its `n_calls` is"),
        (Forgetful(5, 20, scale=1), "file", ValueError, "This Forgetful cannot be saved: .*scale"),
        (HOLED, "file", ValueError, "cannot be saved: .*b_enc holds NaN or infinite"),
    ],
)
def test_what_could_not_be_read_again_is_not_saved(thing, name, error, message, tmp_path):
    with pytest.raises(error, match=message):
        save_sae(thing, tmp_path / name, overwrite=True)
    assert not list(tmp_path.iterdir())


def write(path, weights=None, **words):
    weights = SparseAutoencoder(5, 20).state_dict() | (weights or {})
    save_file({n: w.contiguous() for n, w in weights.items()}, path, metadata=words or None)


PLAIN = {"class": "SparseAutoencoder", "settings": "{}"}


def topk(settings):
    return {"class": "TopKSparseAutoencoder", "settings": json.dumps(settings)}


@pytest.mark.parametrize(
    ("weights", "words", "message"),
    [
        ({"W_enc": torch.full((5, 20), float("nan"))}, PLAIN, "W_enc holds NaN or infinite"),
        ({"b_dec": torch.full((5,), float("inf"))}, {"k": ""}, "b_dec holds NaN or infinite"),
        ({"W_dec": torch.ones(20, 5).long()}, PLAIN, "W_dec holds torch.int64 in place of"),
        ({"b_enc": torch.ones(20).bool()}, {"k": ""}, "b_enc holds torch.bool in place of"),
        ({"b_enc": torch.ones(19)}, PLAIN, "cannot be read as a SparseAutoencoder: .*b_enc"),
        ({"W_dec": torch.ones(20)}, PLAIN, "not the weights of an SAE"),
        ({"extra": torch.ones(1)}, PLAIN, "cannot be read as a SparseAutoencoder: .*extra"),
        ({}, {"k": "abc"}, "TopKSparseAutoencoder: k must be an int, but a str came: 'abc'"),
        ({}, {"k": "0"}, "TopKSparseAutoencoder: k must be at least 1"),
        ({}, {"k": "21"}, "TopKSparseAutoencoder: k must be at most d_sae=20"),
        ({}, topk({"k": None}), "TopKSparseAutoencoder: k must be an int"),
        ({}, topk({}), "cannot be read as a TopKSparseAutoencoder"),
        ({}, topk([3]), "cannot be read as a TopKSparseAutoencoder"),
        ({}, {"class": "SparseAutoencoder", "settings": "{"}, "cannot be read as a Sparse"),
        ({}, {"class": "SparseAutoencoder"}, "cannot be read as a SparseAutoencoder"),
        ({}, {"class": "Path", "settings": "{}"}, "holds a Path; define or import that class"),
        ({}, {}, "was not written by save_sae"),
    ],
)
def test_loading_refuses_what_is_no_sae(weights, words, message, tmp_path):
    write(tmp_path / "file", weights, **words)
    with pytest.raises(ValueError, match=message) as raised:
        load_sae(tmp_path / "file")
    assert "\n" not in str(raised.value)


def test_a_subclass_is_refused_by_name_where_it_is_not_defined(tmp_path):
    def save_one_of_a_local_class():
        class Local(SparseAutoencoder):
            pass

        save_sae(Local(5, 20), tmp_path / "file")
        assert type(load_sae(tmp_path / "file")) is Local

    save_one_of_a_local_class()
    gc.collect()  # now the class is gone, as in a new session
    with pytest.raises(ValueError, match="holds a Local; define or import that class first"):
        load_sae(tmp_path / "file")


def test_of_two_classes_of_one_name_the_newer_is_loaded(tmp_path):
    """As when the cell that defines it was run again."""
    kinds = [type("Again", (SparseAutoencoder,), {}) for _ in range(2)]
    save_sae(kinds[0](5, 20), tmp_path / "file")
    assert type(load_sae(tmp_path / "file")) is kinds[1]


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 64])
def test_loading_refuses_garbage(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_sae(tmp_path / "file")


@pytest.mark.parametrize("name", ["absent", "."], ids=["no file", "a folder"])
def test_loading_says_when_there_is_no_file(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        load_sae(tmp_path / name)


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_loading_a_pickle_runs_none_of_its_code(tmp_path):
    path, sprung = tmp_path / "sae.pt", tmp_path / "sprung"
    path.write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_sae(path)
    assert not sprung.exists()
    pickle.loads(path.read_bytes())
    assert sprung.exists()  # the trap works: only load_sae did not step on it


def test_a_class_of_ones_own_is_not_saved_under_the_name_of_the_librarys(tmp_path):
    own = type("SparseAutoencoder", (SparseAutoencoder,), {"__module__": "somewhere"})
    with pytest.raises(ValueError, match="another class"):
        save_sae(own(5, 20), tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_a_setting_that_would_come_back_changed_is_refused(tmp_path):
    class Tripled(SparseAutoencoder):
        def __init__(self, d_in, d_sae, *, scale, seed=0):
            super().__init__(d_in, d_sae, seed=seed)
            self.scale = scale * 3

    with pytest.raises(ValueError, match="other settings"):
        save_sae(Tripled(5, 20, scale=2), tmp_path / "file")

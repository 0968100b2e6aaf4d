"""Files: whole or not at all, never another's, and nothing read that is no SAE.

That SAELens reads and writes the same folders is tested where SAELens is: beyond/tests.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from variants import Gated, in_general_position

from sae_lib import SparseAutoencoder, TopKSparseAutoencoder, random_directions
from sae_lib.saving import load_sae, save_sae, write_file

pytestmark = pytest.mark.usefixtures("global_random_state_untouched")
X = random_directions(64, 5, seed=1)
FILES = ["cfg.json", "sae_weights.safetensors"]


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def edit(folder, *, without=(), weights=None, **config):
    """Change what the two files of a saved SAE say."""
    path = folder / "cfg.json"
    content = json.loads(path.read_text()) | config
    path.write_text(json.dumps({k: v for k, v in content.items() if k not in without}))
    if weights:
        (folder / FILES[1]).write_bytes(save(SparseAutoencoder(5, 20).state_dict() | weights))


@pytest.fixture
def folder(tmp_path):
    save_sae(in_general_position(SparseAutoencoder(5, 20)), tmp_path / "sae")
    return tmp_path / "sae"


@pytest.mark.parametrize("sae", [SparseAutoencoder(5, 20), TopKSparseAutoencoder(5, 20, k=3)])
def test_a_saved_sae_comes_back_the_same(sae, tmp_path):
    in_general_position(sae)
    save_sae(sae, str(tmp_path / "new" / "folder"))
    loaded = load_sae(str(tmp_path / "new" / "folder"))
    assert type(loaded) is type(sae) and getattr(loaded, "k", 3) == 3
    for name, weight in sae.named_parameters():
        assert torch.equal(getattr(loaded, name), weight) and getattr(loaded, name).requires_grad
    assert all(map(torch.equal, loaded(X), sae(X)))
    assert names(tmp_path / "new" / "folder") == FILES


def test_what_saelens_does_and_ours_does_not_is_folded_in(folder):
    W_enc, b_enc, W_dec, b_dec = (w.detach() for w in load_sae(folder).parameters())
    edit(folder, without=["apply_b_dec_to_input"])  # its default is to subtract b_dec from x
    h = torch.relu((X - b_dec) @ W_enc + b_enc)
    torch.testing.assert_close(load_sae(folder)(X), (h @ W_dec + b_dec, h), atol=1e-5, rtol=1e-5)
    edit(folder, architecture="topk", k=2, rescale_acts_by_decoder_norm=True)
    norms = W_dec.norm(dim=1)
    h = h * norms
    h = h * (h >= h.topk(2).values[:, -1:])
    x_hat = (h / norms) @ W_dec + b_dec
    torch.testing.assert_close(load_sae(folder)(X), (x_hat, h), atol=1e-5, rtol=1e-5)


def test_a_loaded_sae_does_not_change_with_its_file(folder):
    sae = load_sae(folder)
    before = sae.W_dec.detach().clone()
    with (folder / FILES[1]).open("r+b") as file:  # in place, where a memory map would see it
        file.write(b"\0" * (folder / FILES[1]).stat().st_size)
    assert torch.equal(sae.W_dec, before)


def test_saving_replaces_an_sae_only_when_told_to(folder):
    with pytest.raises(FileExistsError, match=r"holds an SAE already; pass overwrite=True"):
        save_sae(SparseAutoencoder(4, 8), folder)
    assert load_sae(folder).W_dec.shape == (20, 5)
    save_sae(SparseAutoencoder(4, 8), folder, overwrite=True)
    assert load_sae(folder).W_dec.shape == (8, 4) and names(folder) == FILES


class NoReLU(SparseAutoencoder):
    def encode(self, x):
        return x @ self.W_enc + self.b_enc


@pytest.mark.parametrize("kind", [NoReLU, Gated])
def test_an_sae_whose_class_computes_something_else_is_not_saved(kind, tmp_path):
    with pytest.raises(ValueError, match=f"{kind.__name__} computes something else than ReLU"):
        save_sae(kind(5, 20), tmp_path / "sae")
    assert names(tmp_path) == []


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
@pytest.mark.parametrize("crash", [OSError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    crash, step, tmp_path, monkeypatch
):
    def crashing(*arguments, **options):
        raise crash

    path = tmp_path / "file"
    path.write_text("years of work")
    monkeypatch.setattr(Path, step, crashing)
    with pytest.raises(crash):
        write_file(path, b"new")
    assert path.read_text() == "years of work" and names(tmp_path) == ["file"]


def test_files_with_similar_names_survive_and_a_link_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    real = tmp_path / "there" / "file"
    (tmp_path / "file").symlink_to(real)
    similar = ("file.tmp", ".file", "file~", "file.part", ".file.tmp", "file.safetensors")
    others = [folder / name for folder in (tmp_path, real.parent) for name in similar]
    for path in (*others, real):
        path.write_bytes(b"years of work")
    write_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").is_symlink() and real.read_bytes() == b"new"
    assert all(path.read_bytes() == b"years of work" for path in others)
    assert len(names(real.parent)) == len(similar) + 1
    assert real.stat().st_mode & 0o444 == 0o444  # all may read it


NO_SAE = "holds no SAE that can be read"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "jumprelu"}, "architecture is 'jumprelu'; only"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations is 'layer_norm'; only"),
        ({"reshape_activations": "hook_z"}, "reshape_activations is 'hook_z'; only"),
        ({"weights": {"W_enc": torch.full((5, 20), math.nan)}}, f"{NO_SAE}: .*W_enc holds NaN"),
        ({"weights": {"W_dec": torch.ones(20, 5).long()}}, "W_dec must hold floats"),
        ({"weights": {"b_enc": torch.ones(19)}}, f"{NO_SAE}: .*b_enc"),
        ({"weights": {"W_dec": torch.ones(20)}}, NO_SAE),
        *(({"architecture": "topk"} | k, f"{NO_SAE}: .*k") for k in ({}, {"k": 21}, {"k": "3"})),
        ({"without": ["architecture"]}, "architecture is None; only"),
    ],
)
def test_what_is_no_relu_or_topk_sae_is_refused_in_one_sentence(change, message, folder):
    edit(folder, **change)
    with pytest.raises(ValueError, match=message) as raised:
        load_sae(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", FILES)
def test_garbage_is_refused_in_one_sentence_and_a_missing_file_is_named(name, folder):
    would_end_python = b"cbuiltins\nexit\n(tR."  # were it unpickled
    for content in (b"", b"\xff" * 64, b"[1]", would_end_python):
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=NO_SAE) as raised:
            load_sae(folder)
        assert "\n" not in str(raised.value)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_sae(folder)


def test_half_precision_a_numpy_k_and_weights_that_are_not_finite(tmp_path):
    sae = SparseAutoencoder(5, 20).bfloat16()
    save_sae(sae, tmp_path)
    torch.testing.assert_close(load_sae(tmp_path).W_dec, sae.W_dec.float())
    save_sae(TopKSparseAutoencoder(5, 20, k=np.int64(3)), tmp_path, overwrite=True)
    assert load_sae(tmp_path).k == 3
    sae.b_enc.data[0] = math.nan
    with pytest.raises(ValueError, match="b_enc holds NaN"):
        save_sae(sae, tmp_path, overwrite=True)
    assert load_sae(tmp_path).k == 3  # what was there is still there

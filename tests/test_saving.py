"""Two files that belong together, nothing of another's lost, and nothing read that is no SAE.

That SAELens reads and writes the same folders is tested where SAELens is: beyond/tests.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from variants import BatchTopK, in_general_position, same_weights

from sae_lib import SparseAutoencoder, TopKSparseAutoencoder, random_directions
from sae_lib.saving import load_sae, save_sae

pytestmark = pytest.mark.usefixtures("global_random_state_untouched")
X = random_directions(64, 5, seed=1)
FILES = ["cfg.json", "sae_weights.safetensors"]


def edit(folder, *, without=(), weights=None, raw=None, **config):
    """Change what the two files of a saved SAE say; raw: the bytes of one of them."""
    path = folder / "cfg.json"
    content = json.loads(path.read_text()) | config
    path.write_text(json.dumps({k: v for k, v in content.items() if k not in without}))
    if weights:
        (folder / FILES[1]).write_bytes(save(SparseAutoencoder(5, 20).state_dict() | weights))
    for name, data in (raw or {}).items():
        (folder / name).write_bytes(data)


@pytest.fixture
def folder(tmp_path):
    save_sae(in_general_position(SparseAutoencoder(5, 20)), tmp_path / "sae")
    return tmp_path / "sae"


SAES = [SparseAutoencoder(5, 20).bfloat16(), TopKSparseAutoencoder(5, 20, k=np.int64(3))]


@pytest.mark.parametrize("sae", SAES)
def test_a_saved_sae_comes_back_the_same(sae, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_sae(in_general_position(sae), "~/new/folder")
    loaded = load_sae("~/new/folder")
    assert type(loaded) is type(sae) and getattr(loaded, "k", 3) == 3
    assert same_weights(loaded, sae.float()) and all(w.requires_grad for w in loaded.parameters())
    assert all(map(torch.equal, loaded(X), sae(X)))
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == FILES


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


@pytest.mark.parametrize("missing", [None, *FILES])
def test_what_is_there_is_replaced_only_when_asked_for_and_possible(missing, folder):
    if missing:
        (folder / missing).unlink()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    sae, spoilt = SparseAutoencoder(4, 8), SparseAutoencoder(4, 8)
    spoilt.b_enc.data[0] = math.nan
    with pytest.raises(FileExistsError, match="holds an SAE already; pass overwrite=True"):
        save_sae(sae, folder)
    with pytest.raises(ValueError, match="b_enc: expected finite"):
        save_sae(spoilt, folder, overwrite=True)
    assert before == {path: path.read_bytes() for path in folder.iterdir()}
    save_sae(sae, folder, overwrite=True)
    assert load_sae(folder).W_dec.shape == (8, 4)


def test_a_crash_while_overwriting_leaves_nothing_that_loads(folder, monkeypatch):
    monkeypatch.setattr(Path, "write_text", lambda *arguments, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_sae(SparseAutoencoder(5, 20), folder, overwrite=True)
    with pytest.raises(FileNotFoundError, match=r"cfg\.json"):
        load_sae(folder)


class Sigmoid(SparseAutoencoder):
    def encode(self, x):
        return torch.sigmoid(x @ self.W_enc + self.b_enc)


def test_an_sae_whose_class_computes_something_else_is_not_saved(tmp_path):
    silent = Sigmoid(5, 20)
    silent.b_enc.data -= 20  # on usual inputs as dead as a ReLU would be
    for other in (BatchTopK(5, 20, k=2), silent):
        with pytest.raises(ValueError, match="that computes something else"):
            save_sae(other, tmp_path / "sae")
        assert not (tmp_path / "sae").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "jumprelu"}, "architecture: expected one of .*, got 'jumprelu'"),
        ({"without": ["architecture"]}, "'architecture'"),
        ({"normalize_activations": "layer_norm"}, r"\('none',\), got 'layer_norm'"),
        ({"apply_b_dec_to_input": "false"}, "apply_b_dec_to_input: .*, got 'false'"),
        ({"d_in": 768}, r"d_in: expected one of \(5,\), got 768"),
        ({"architecture": "topk", "k": 0}, r"k: expected one of range\(1, 21\), got 0"),
        ({"k": 3}, "k: expected no such key, got 3"),
        ({"weights": {"scaling_factor": torch.ones(20)}}, "Unexpected .*scaling_factor"),
        ({"weights": {"W_enc": torch.full((5, 20), math.nan)}}, "W_enc: expected finite"),
        ({"weights": {"b_dec": torch.ones(5).double() * 1e39}}, "b_dec in float32: expected"),
        ({"weights": {"b_enc": torch.ones(19)}}, "b_enc"),
        *(({"raw": {name: b"[1]"}}, "") for name in FILES),
        ({"raw": {FILES[1]: b"version https://git-lfs.github.com"}}, "is a Git LFS pointer"),
        ({"raw": {FILES[1]: b" <a>"}}, "is a web page"),
    ],
)
def test_what_is_no_relu_or_topk_sae_is_refused_in_one_sentence(change, message, folder):
    edit(folder, **change)
    with pytest.raises(ValueError, match=f"holds no SAE that can be read: .*{message}") as raised:
        load_sae(folder)
    assert "\n" not in str(raised.value)

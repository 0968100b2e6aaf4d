"""What is written for other tools, and what is read back, without those tools.

The formulas below are theirs, in plain torch. tests_next/test_handover_peers.py asks the real ones.
"""

import ast
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from variants import in_general_position

from sae_lib import SparseAutoencoder, TopKSparseAutoencoder, handover, random_directions
from sae_lib.handover import (
    export_to_dictionary_learning,
    export_to_saelens,
    export_to_sparsify,
    load_from_saelens,
)

pytestmark = pytest.mark.usefixtures("global_random_state_untouched")
X = 3 * random_directions(64, 5, seed=1)
EXPORTS = [export_to_saelens, export_to_dictionary_learning, export_to_sparsify]
SAELENS_TRAINED = {  # what SAELens 6.54 saves of a TopK SAE that it trained, as far as it matters
    "architecture": "topk",
    "k": 3,
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "rescale_acts_by_decoder_norm": True,
    "metadata": {"sae_lens_version": "6.54.12"},
}


@pytest.fixture(params=["plain", "topk"])
def sae(request):
    kind = {"plain": SparseAutoencoder, "topk": lambda *a: TopKSparseAutoencoder(*a, k=3)}
    return in_general_position(kind[request.param](5, 20))


def keep_strongest(acts, k):
    strongest = acts.topk(k, dim=-1)
    return torch.zeros_like(acts).scatter(-1, strongest.indices, strongest.values)


def saelens(config, w, x):
    """SAELens 6.54's output and latent activations, for the settings that it can be given."""
    norms = w["W_dec"].norm(dim=1) if config.get("rescale_acts_by_decoder_norm") else 1.0
    read = x - w["b_dec"] if config.get("apply_b_dec_to_input", True) else x
    acts = torch.relu((read @ w["W_enc"] + w["b_enc"]) * norms)
    if config["architecture"] == "topk":
        acts = keep_strongest(acts, config["k"])
    return (acts / norms) @ w["W_dec"] + w["b_dec"], acts


def read(folder, weights="sae_weights.safetensors"):
    return json.loads((folder / "cfg.json").read_text()), load_file(folder / weights)


def write(folder, config, weights):
    folder.mkdir(exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(weights, folder / "sae_weights.safetensors")
    return folder


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), atol=2e-6, rtol=0)


# --- SAELens ----------------------------------------------------------------------------


def test_the_settings_written_for_saelens_are_these_and_no_others(sae, tmp_path):
    export_to_saelens(sae, tmp_path / "new" / "folder")
    config, _ = read(tmp_path / "new" / "folder")
    topk = {"k": 3, "rescale_acts_by_decoder_norm": False} if hasattr(sae, "k") else {}
    assert config == topk | {
        "architecture": "topk" if topk else "standard",
        "d_in": 5,
        "d_sae": 20,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,  # left out, SAELens takes true
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12", "sae_lens_training_version": None},
    }


def test_saelens_gets_the_weights_bit_for_bit_and_gives_our_numbers(sae, tmp_path):
    export_to_saelens(sae, tmp_path)
    config, weights = read(tmp_path)
    assert {name: w.shape for name, w in weights.items()} == {
        name: w.shape for name, w in sae.named_parameters()
    }
    assert all(torch.equal(weights[name], w) for name, w in sae.named_parameters())
    assert_same(sae(X), saelens(config, weights, X))
    wrong = saelens(config | {"apply_b_dec_to_input": True}, weights, X)
    assert (wrong[1] - sae(X)[1]).abs().max() > 0.1  # so the test above sees that setting


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_what_was_exported_loads_as_it_was(sae, dtype, tmp_path):
    export_to_saelens(sae.to(dtype), tmp_path)
    loaded = load_from_saelens(tmp_path)
    assert type(loaded) is type(sae)
    assert getattr(loaded, "k", None) == getattr(sae, "k", None)
    for name, weight in sae.named_parameters():
        assert getattr(loaded, name).dtype == dtype
        assert torch.equal(getattr(loaded, name), weight)
    assert all(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize("missing", [None, "apply_b_dec_to_input"])
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "topk"])
def test_an_sae_that_saelens_trained_loads_with_its_numbers(
    architecture, rescale, missing, tmp_path
):
    config = SAELENS_TRAINED | {"architecture": architecture}
    config["rescale_acts_by_decoder_norm"] = rescale
    if architecture == "standard":
        del config["rescale_acts_by_decoder_norm"], config["k"]
    config.pop(missing, None)
    weights = in_general_position(SparseAutoencoder(5, 20)).state_dict()
    loaded = load_from_saelens(write(tmp_path, config, weights))
    assert_same(loaded(X), saelens(config, weights, X))


# --- dictionary_learning and sparsify, which always subtract b_dec ------------------------


def test_dictionary_learning_gets_the_same_numbers(sae, tmp_path):
    export_to_dictionary_learning(sae, tmp_path)
    trainer = json.loads((tmp_path / "config.json").read_text())["trainer"]
    state = torch.load(tmp_path / "ae.pt", weights_only=True)
    bias = state["b_dec" if hasattr(sae, "k") else "bias"]
    acts = torch.relu(
        nn.functional.linear(X - bias, state["encoder.weight"], state["encoder.bias"])
    )
    if hasattr(sae, "k"):
        assert trainer == {
            "dict_class": "AutoEncoderTopK",
            "activation_dim": 5,
            "dict_size": 20,
            "k": 3,
        }
        assert state["k"] == 3 and state["threshold"] == -1
        acts = keep_strongest(acts, 3)
    else:
        assert trainer == {"dict_class": "AutoEncoder", "activation_dim": 5, "dict_size": 20}
    assert_same(sae(X), (nn.functional.linear(acts, state["decoder.weight"]) + bias, acts))


def test_sparsify_gets_the_same_numbers(sae, tmp_path):
    export_to_sparsify(sae, tmp_path)
    config, state = read(tmp_path, "sae.safetensors")
    k = getattr(sae, "k", 20)
    assert config == {"activation": "topk", "d_in": 5, "num_latents": 20, "k": k}
    read_by_it = X - state["b_dec"]
    acts = torch.relu(
        nn.functional.linear(read_by_it, state["encoder.weight"], state["encoder.bias"])
    )
    acts = keep_strongest(acts, k)
    assert_same(sae(X), (acts @ state["W_dec"] + state["b_dec"], acts))


# --- refused, and nothing written -----------------------------------------------------------


class WideJumpReLU(SparseAutoencoder):
    pass


def edited(change):
    """Of the same name and weights, as when the notebook's class was edited and run again."""
    parent = TopKSparseAutoencoder if change == "no k" else SparseAutoencoder

    class Edited(parent):
        def encode(self, x):
            if change == "no ReLU":
                return x @ self.W_enc + self.b_enc
            if change == "b_dec first":
                return super().encode(x - self.b_dec)
            return SparseAutoencoder.encode(self, x) if change == "no k" else super().encode(x)

    Edited.__name__ = parent.__name__
    return in_general_position(Edited(5, 20, **({"k": 3} if change == "no k" else {})))


def stack_of_two():
    sae = SparseAutoencoder(5, 20)
    for name, weight in list(sae.named_parameters()):
        weight = weight if weight.ndim == 2 else weight[None]
        setattr(sae, name, nn.Parameter(torch.stack([weight, weight]).detach()))
    return sae


def with_one(value, name):
    sae = SparseAutoencoder(5, 20)
    with torch.no_grad():
        getattr(sae, name).view(-1)[0] = value
    return sae


def half_the_bias():
    sae = SparseAutoencoder(5, 20)
    sae.b_enc = nn.Parameter(sae.b_enc.detach().half())
    return sae


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize(
    ("sae", "error", "message"),
    [
        (
            WideJumpReLU(5, 20),
            TypeError,
            "Only a SparseAutoencoder or a TopKSparse.*a WideJumpReLU came",
        ),
        (SparseAutoencoder(5, 20).state_dict(), TypeError, "but a OrderedDict came"),
        (None, TypeError, "but a NoneType came"),
        (edited("no ReLU"), ValueError, "This SparseAutoencoder computes something else"),
        (edited("b_dec first"), ValueError, "This SparseAutoencoder computes something else"),
        (edited("no k"), ValueError, "This TopKSparseAutoencoder computes something else"),
        (stack_of_two(), ValueError, r"is not one SAE: W_dec has shape \(2, 20, 5\)"),
        (with_one(float("nan"), "b_enc"), ValueError, "NaN or infinite values in b_enc"),
        (with_one(float("-inf"), "W_dec"), ValueError, "NaN or infinite values in W_dec"),
        (half_the_bias(), ValueError, r"holds \['float16', 'float32'\]; one of"),
    ],
    ids=[
        "a variant",
        "a dict",
        "nothing",
        "no ReLU",
        "b_dec first",
        "no k",
        "a stack",
        "nan",
        "inf",
        "two dtypes",
    ],
)
def test_what_cannot_be_carried_is_refused_by_name(export, sae, error, message, tmp_path):
    with pytest.raises(error, match=message):
        export(sae, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("export", EXPORTS)
def test_a_class_that_was_run_again_unchanged_is_carried(export, tmp_path):
    export(edited("nothing"), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_nothing_is_loaded_into_an_edited_class(monkeypatch, tmp_path):
    monkeypatch.setattr(handover, "SparseAutoencoder", type(edited("no ReLU")))
    weights = in_general_position(SparseAutoencoder(5, 20)).state_dict()
    with pytest.raises(ValueError, match="This SparseAutoencoder computes something else"):
        load_from_saelens(write(tmp_path, SAELENS_TRAINED | {"architecture": "standard"}, weights))


@pytest.mark.parametrize("export", EXPORTS)
def test_nothing_is_written_among_other_files_unless_told_to(export, sae, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds files already; pass overwrite=True"):
        export(sae, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    export(sae, tmp_path, overwrite=True)
    export(sae, tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(FileExistsError, match=r"thesis\.tex is a file; the name of a folder"):
        export(sae, tmp_path / "thesis.tex", overwrite=True)


WEIGHTS = SparseAutoencoder(5, 20).state_dict()
NOT_FINITE = WEIGHTS | {"b_dec": torch.full((5,), torch.nan)}
OLD = SAELENS_TRAINED | {"metadata": {"sae_lens_version": "5.11.0"}}


@pytest.mark.parametrize(
    ("config", "weights", "error", "message"),
    [
        ({"architecture": "gated"}, WEIGHTS, ValueError, "'gated'; only 'standard' or 'topk' can"),
        ({"normalize_activations": "layer_norm"}, WEIGHTS, ValueError, "'layer_norm'; only 'none'"),
        ({"reshape_activations": "hook_z"}, WEIGHTS, ValueError, "'hook_z'; only 'none' can"),
        (OLD, WEIGHTS, ValueError, "not a file of SAELens 6; load and save it there first"),
        ({"metadata": {}}, WEIGHTS, ValueError, "not a file of SAELens 6"),
        ({"metadata": None}, WEIGHTS, ValueError, "not a file of SAELens 6"),
        ({"k": 21}, WEIGHTS, ValueError, "k must be at most d_sae=20, but 21 came"),
        ({"k": "3"}, WEIGHTS, TypeError, "k must be an int"),
        ({"k": None}, WEIGHTS, TypeError, "k must be an int"),
        ({}, {"W": torch.ones(2)}, ValueError, r"holds \['W'\], not the four weights of an SAE"),
        ({}, WEIGHTS | {"scaling": torch.ones(1)}, ValueError, "not the four weights of an SAE"),
        ({}, WEIGHTS | {"b_enc": torch.ones(5)}, ValueError, r"b_enc of shape \(5,\); W_dec asks"),
        ({}, WEIGHTS | {"W_dec": torch.ones(20)}, ValueError, r"not one SAE: W_dec has shape"),
        ({}, NOT_FINITE, ValueError, "NaN or infinite values in b_dec"),
        ({}, {n: w.int() for n, w in WEIGHTS.items()}, ValueError, r"holds \['int32'\]; one of"),
    ],
)
def test_loading_refuses_with_a_sentence(config, weights, error, message, tmp_path):
    weights = {name: w.contiguous() for name, w in weights.items()}
    write(tmp_path, SAELENS_TRAINED | config, weights)
    with pytest.raises(error, match=message):
        load_from_saelens(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "3", "{", "\udcff"])
def test_loading_refuses_settings_that_are_none(content, tmp_path):
    write(tmp_path, {}, WEIGHTS)
    (tmp_path / "cfg.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"cfg\.json is not (JSON|a file of SAELens 6)"):
        load_from_saelens(tmp_path)


def test_loading_refuses_garbage_and_says_which_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*cfg\.json"):
        load_from_saelens(tmp_path / "nowhere")
    write(tmp_path, SAELENS_TRAINED, WEIGHTS)
    (tmp_path / "sae_weights.safetensors").write_bytes(b"garbage")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_from_saelens(tmp_path)
    (tmp_path / "sae_weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"There is no file .*sae_weights\.safetensors"):
        load_from_saelens(str(tmp_path))


def test_the_module_needs_torch_json_and_safetensors_only():
    tree = ast.parse(Path(handover.__file__).read_text(encoding="utf-8"))
    imported = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    imported += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    assert {name.split(".")[0] for name in imported} == {
        *("json", "pathlib", "safetensors", "sae_lib", "torch"),
    }

"""What is written for other tools and read back: the same numbers there and here."""

import json

import pytest
import torch
from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from torch.nn.functional import linear, normalize

from beyond.interop import (
    export_to_dictionary_learning,
    export_to_saelens,
    export_to_sparsify,
    load_from_saelens,
)
from sae_lib import SparseAutoencoder, TopKSparseAutoencoder, random_directions
from sae_lib.saving import save_sae

X = 3 * random_directions(512, 5, seed=1)
EXPORTS = [export_to_saelens, export_to_dictionary_learning, export_to_sparsify]


def in_general_position(sae):
    """The SAE with no weight left at its initial value, and decoder rows of any length."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in sae.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return sae


@pytest.fixture(params=["plain", "topk"])
def sae(request):
    kind = {"plain": SparseAutoencoder, "topk": lambda *a: TopKSparseAutoencoder(*a, k=3)}
    return in_general_position(kind[request.param](5, 20))


def assert_same(ours, theirs, tolerance=4e-6):
    """Up to the last digits of single precision: of a 28 they are worth 2e-6 each."""
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), atol=tolerance, rtol=1e-6)


@pytest.fixture(autouse=True)
def the_same_weights_every_time():
    torch.manual_seed(0)  # SAELens and sparsify draw from the global generator


def numbers_of(saelens_sae):
    return saelens_sae(X), saelens_sae.encode(X)


# --- SAELens ----------------------------------------------------------------------------


def test_saelens_loads_what_we_save_and_its_own_copy_comes_back(sae, tmp_path):
    save_sae(sae, tmp_path / "ours")
    there = SAE.load_from_disk(tmp_path / "ours")
    assert there.cfg.architecture() == ("topk" if hasattr(sae, "k") else "standard")
    assert_same(sae(X), numbers_of(there))

    there.save_model(tmp_path / "theirs")
    back = load_from_saelens(tmp_path / "theirs")
    assert type(back) is type(sae)
    assert all(torch.equal(getattr(back, name), w) for name, w in sae.named_parameters())


def test_without_one_line_saelens_loads_it_in_silence_and_is_wrong(sae, tmp_path):
    save_sae(sae, tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config.pop("apply_b_dec_to_input") is False
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    assert (SAE.load_from_disk(tmp_path).encode(X) - sae.encode(X)).abs().max() > 0.1


THEIRS = {
    "standard": lambda **s: StandardTrainingSAE(StandardTrainingSAEConfig(**s)),
    "topk": lambda **s: TopKTrainingSAE(TopKTrainingSAEConfig(**s, k=3)),
    "topk, not rescaled": lambda **s: TopKTrainingSAE(
        TopKTrainingSAEConfig(**s, k=3, rescale_acts_by_decoder_norm=False)
    ),
    "jumprelu": lambda **s: JumpReLUSAE(JumpReLUSAEConfig(**s)),
    "batchtopk": lambda **s: BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**s, k=3)),
    "matryoshka": lambda **s: MatryoshkaBatchTopKTrainingSAE(
        MatryoshkaBatchTopKTrainingSAEConfig(**s, k=3, matryoshka_widths=[5, 20])
    ),
}


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("kind", THEIRS)
def test_an_sae_of_saelens_loads_with_the_same_numbers(kind, subtracts, tmp_path):
    there = in_general_position(THEIRS[kind](d_in=5, d_sae=20, apply_b_dec_to_input=subtracts))
    if hasattr(there, "topk_threshold"):
        there.topk_threshold.fill_(0.8)  # what training would have found
    getattr(there, "save_inference_model", there.save_model)(tmp_path)
    there = SAE.load_from_disk(tmp_path)
    assert 0 < (there.encode(X) > 0).float().mean() < 0.9
    assert_same(load_from_saelens(tmp_path)(X), numbers_of(there))


def test_the_threshold_decides_and_is_checked(tmp_path):
    there = in_general_position(JumpReLUSAE(JumpReLUSAEConfig(d_in=5, d_sae=20)))
    there.threshold.data.fill_(1.0)
    there.save_model(tmp_path)
    acts = load_from_saelens(tmp_path).encode(X)
    assert acts[acts > 0].min() > 1.0
    there.threshold.data[3] = torch.nan
    there.save_model(tmp_path)
    with pytest.raises(ValueError, match="threshold holds NaN"):
        load_from_saelens(tmp_path)


@pytest.mark.parametrize("kind", ["standard", "jumprelu"])
def test_half_precision_and_a_large_b_dec_cost_no_more_than_in_saelens(kind, tmp_path):
    there = in_general_position(THEIRS[kind](d_in=5, d_sae=20, apply_b_dec_to_input=True))
    there.b_dec.data += 100
    there.to(torch.bfloat16).save_model(tmp_path)
    w = {name: weight.detach().double() for name, weight in there.named_parameters()}
    x = X.double() + 100
    z = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    exact = torch.relu(z) * (z > w.get("threshold", 0)) @ w["W_dec"] + w["b_dec"]
    ours = (load_from_saelens(tmp_path)(x.float())[0] - exact).abs().max()
    theirs = (SAE.load_from_disk(tmp_path)(x.bfloat16()) - exact).abs().max()
    assert ours < 1e-3 < theirs


@pytest.mark.parametrize("kind", [StandardSAE, JumpReLUSAE])
@pytest.mark.parametrize("name", ["normalize_activations", "reshape_activations"])
def test_settings_that_ours_cannot_follow_are_refused(kind, name, tmp_path):
    config = {StandardSAE: StandardSAEConfig, JumpReLUSAE: JumpReLUSAEConfig}[kind]
    value = {"normalize_activations": "layer_norm", "reshape_activations": "hook_z"}[name]
    kind(config(d_in=5, d_sae=20, **{name: value})).save_model(tmp_path)
    with pytest.raises(ValueError, match=f"{name} is '{value}'"):
        load_from_saelens(tmp_path)


def test_what_is_no_sae_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_from_saelens(tmp_path)
    (tmp_path / "cfg.json").write_text('{"architecture": "jumprelu"}')
    with pytest.raises(FileNotFoundError):
        load_from_saelens(tmp_path)
    (tmp_path / "sae_weights.safetensors").write_bytes(b"garbage")
    with pytest.raises(ValueError, match="holds no SAE that can be read"):
        load_from_saelens(tmp_path)


def test_mean_scale_and_origin_go_into_the_file(sae, tmp_path):
    mean, scale = torch.tensor([5.0, -3.0, 0.0, 40.0, 1.0]), 7.0
    origin = {"model_name": "toy", "hook_name": "hidden"}
    export_to_saelens(sae, tmp_path, mean=mean, scale=scale, metadata=origin)
    there = SAE.load_from_disk(tmp_path)
    x_hat, acts = sae(X)
    raw = scale * X + mean
    assert_same((scale * x_hat + mean, scale * acts), (there(raw), there.encode(raw)), 2e-4)
    assert (there.cfg.metadata.model_name, there.cfg.metadata.hook_name) == ("toy", "hidden")
    assert there.cfg.metadata.sae_lens_version == "6.54.12"
    torch.testing.assert_close(there.W_dec, sae.W_dec)  # as long as before
    with pytest.raises(ValueError, match="scale must be above 0"):
        export_to_saelens(sae, tmp_path, scale=0.0)


# --- the two that always subtract b_dec -----------------------------------------------------


def test_sparsify_gives_the_same_numbers(sae, tmp_path):
    from sparsify import SparseCoder

    export_to_sparsify(sae, tmp_path)
    there = SparseCoder.load_from_disk(tmp_path)
    found = there(X)
    acts = torch.zeros(len(X), 20).scatter(1, found.latent_indices, found.latent_acts)
    assert_same(sae(X), (found.sae_out, acts))


def dictionary_learning_of(folder):
    """dictionary_learning 0.1's loading and formula, in plain torch: x -> (x_hat, latent_acts)."""
    trainer = json.loads((folder / "config.json").read_text())["trainer"]
    state = torch.load(folder / "ae.pt", weights_only=True)
    W_enc, b_enc, W_dec = (
        state[f"{n}"] for n in ("encoder.weight", "encoder.bias", "decoder.weight")
    )
    norms, b_dec = W_dec.norm(dim=0), state["b_dec" if "k" in trainer else "bias"]
    if trainer["dict_class"] == "AutoEncoder":
        W_enc, b_enc, W_dec = W_enc * norms[:, None], b_enc * norms, W_dec / norms

    def run(x):
        acts = torch.relu(linear(x - b_dec, W_enc, b_enc))
        if "k" in trainer:
            strongest = acts.topk(trainer["k"], dim=-1)
            acts = torch.zeros_like(acts).scatter(-1, strongest.indices, strongest.values)
        return linear(acts, W_dec) + b_dec, acts

    return run


def in_dictionary_learning(folder):
    pytest.importorskip("dictionary_learning", reason="pip install dictionary-learning==0.1.0")
    from dictionary_learning.utils import load_dictionary

    there, _ = load_dictionary(str(folder), "cpu")
    return lambda x: there(x, output_features=True)


@pytest.mark.parametrize("load", [dictionary_learning_of, in_dictionary_learning])
def test_dictionary_learning_gives_the_same_numbers(load, sae, tmp_path):
    sae.W_dec.data = normalize(sae.W_dec.data)  # else its activations differ by that factor
    export_to_dictionary_learning(sae, tmp_path)
    assert_same(sae(X), load(tmp_path)(X))


@pytest.mark.parametrize("load", [dictionary_learning_of, in_dictionary_learning])
def test_a_decoder_row_of_zeros_does_not_become_nan(load, sae, tmp_path):
    sae.W_dec.data = normalize(sae.W_dec.data)
    sae.W_dec.data[4] = 0
    export_to_dictionary_learning(sae, tmp_path)
    x_hat, acts = load(tmp_path)(X)
    assert torch.isfinite(x_hat).all() and (acts[:, 4] == 0).all()
    if not hasattr(sae, "k"):  # with TopK another latent may take its place
        assert_same([sae(X)[0]], [x_hat])


# --- all exports --------------------------------------------------------------------------


@pytest.mark.parametrize("export", EXPORTS)
def test_an_sae_that_its_weights_do_not_carry_is_refused(export, tmp_path):
    class Edited(SparseAutoencoder):
        def encode(self, x):
            return x @ self.W_enc + self.b_enc

    with pytest.raises(ValueError, match="computes something else"):
        export(in_general_position(Edited(5, 20)), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("export", EXPORTS)
def test_another_sae_is_overwritten_only_when_told_to(export, sae, tmp_path):
    export(sae, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    other = in_general_position(SparseAutoencoder(5, 8))
    with pytest.raises(FileExistsError, match="holds an SAE already; pass overwrite=True"):
        export(other, tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
    export(other, tmp_path, overwrite=True)
    assert before.keys() == {*tmp_path.iterdir()} != before

"""What is written for other tools and read back: the same numbers there and here."""

import pytest
import sae_lens
import torch

from beyond.interop import export_to_saelens, load_from_saelens
from sae_lib import SparseAutoencoder, TopKSparseAutoencoder, random_directions
from sae_lib.saving import save_sae

X = 3 * random_directions(512, 5, seed=1)


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
    torch.manual_seed(0)  # SAELens draws from the global generator


def numbers_of(saelens_sae):
    return saelens_sae(X), saelens_sae.encode(X)


def test_saelens_loads_what_we_save_and_its_own_copy_comes_back(sae, tmp_path):
    save_sae(sae, tmp_path / "ours")
    there = sae_lens.SAE.load_from_disk(tmp_path / "ours")
    assert there.cfg.architecture() == ("topk" if hasattr(sae, "k") else "standard")
    assert_same(sae(X), numbers_of(there))

    there.save_model(tmp_path / "theirs")
    back = load_from_saelens(tmp_path / "theirs")
    assert type(back) is type(sae)
    assert all(torch.equal(getattr(back, name), w) for name, w in sae.named_parameters())


MORE = {  # kinds, as SAELens calls them, and what they take
    "StandardTraining": {},
    "TopKTraining": {"k": 3},
    "TopKTraining, not rescaled": {"k": 3, "rescale_acts_by_decoder_norm": False},
    "JumpReLU": {},
    "BatchTopKTraining": {"k": 3},
    "MatryoshkaBatchTopKTraining": {"k": 3, "matryoshka_widths": [5, 20]},
}


def theirs(kind, **settings):
    name, more = kind.split(",")[0], MORE.get(kind, {})
    config = getattr(sae_lens, f"{name}SAEConfig")(d_in=5, d_sae=20, **more, **settings)
    return in_general_position(getattr(sae_lens, f"{name}SAE")(config))


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("kind", MORE)
def test_an_sae_of_saelens_loads_with_the_same_numbers(kind, subtracts, tmp_path):
    there = theirs(kind, apply_b_dec_to_input=subtracts)
    if hasattr(there, "topk_threshold"):
        there.topk_threshold.fill_(0.8)  # what training would have found
    getattr(there, "save_inference_model", there.save_model)(tmp_path)
    there = sae_lens.SAE.load_from_disk(tmp_path)
    assert 0 < (there.encode(X) > 0).float().mean() < 0.9
    assert_same(load_from_saelens(tmp_path)(X), numbers_of(there))


def test_the_threshold_decides_and_is_checked(tmp_path):
    there = theirs("JumpReLU")
    there.threshold.data.fill_(1.0)
    there.save_model(tmp_path)
    acts = load_from_saelens(tmp_path).encode(X)
    assert acts[acts > 0].min() > 1.0
    there.threshold.data[3] = torch.nan
    there.save_model(tmp_path)
    with pytest.raises(ValueError, match="threshold: expected finite"):
        load_from_saelens(tmp_path)


@pytest.mark.parametrize("kind", ["Standard", "JumpReLU"])
def test_settings_that_ours_cannot_follow_are_refused(kind, tmp_path):
    theirs(kind, normalize_activations="layer_norm").save_model(tmp_path)
    with pytest.raises(ValueError, match=r"normalize_activations: expected .*, got 'layer_norm'"):
        load_from_saelens(tmp_path)


def test_what_is_no_sae_is_refused(tmp_path):
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
    there = sae_lens.SAE.load_from_disk(tmp_path)
    x_hat, acts = sae(X)
    raw = scale * X + mean
    assert_same((scale * x_hat + mean, scale * acts), (there(raw), there.encode(raw)), 2e-4)
    assert (there.cfg.metadata.model_name, there.cfg.metadata.hook_name) == ("toy", "hidden")
    assert there.cfg.metadata.sae_lens_version == "6.54.12"
    torch.testing.assert_close(there.W_dec, sae.W_dec)  # as long as before


def test_it_looks_at_everything_before_it_writes(sae, tmp_path):
    class Edited(SparseAutoencoder):
        def encode(self, x):
            return x @ self.W_enc + self.b_enc

    with pytest.raises(ValueError, match="computes something else"):
        export_to_saelens(in_general_position(Edited(5, 20)), tmp_path / "a")
    with pytest.raises(ValueError, match=r"scale: expected a finite number above 0, got 0\.0"):
        export_to_saelens(sae, tmp_path / "a", scale=0.0)
    with pytest.raises(ValueError, match="metadata: expected what JSON can hold"):
        export_to_saelens(sae, tmp_path / "a", metadata={"layer": torch.tensor(3)})
    assert not (tmp_path / "a").exists()

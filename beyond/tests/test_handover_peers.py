"""The hand-over, tried with the tools themselves: the same numbers on both sides.

    python3 -m venv .venv-next && .venv-next/bin/pip install -r requirements-next.txt
    .venv-next/bin/pytest tests_next/test_handover_peers.py

dictionary_learning is tried in the environment of benchmarks/requirements.txt (with pytest),
as it brings a torchvision that does not fit every torch; conftest.py says more.
"""

import json

import pytest
import torch

from sae_lib import SparseAutoencoder, TopKSparseAutoencoder, random_directions
from sae_lib.handover import (
    export_to_dictionary_learning,
    export_to_saelens,
    export_to_sparsify,
    load_from_saelens,
)
from tests.variants import in_general_position

X = random_directions(512, 5, seed=1)


@pytest.fixture(params=["plain", "topk"])
def sae(request):
    kind = {"plain": SparseAutoencoder, "topk": lambda *a: TopKSparseAutoencoder(*a, k=3)}
    return in_general_position(kind[request.param](5, 20))


def assert_same(ours, theirs, tolerance=1e-6):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), atol=tolerance, rtol=0)


# --- SAELens ----------------------------------------------------------------------------


def numbers_of(saelens_sae):
    return saelens_sae(X), saelens_sae.encode(X)


def test_saelens_loads_what_we_export_and_its_own_copy_comes_back(sae, tmp_path):
    from sae_lens import SAE

    export_to_saelens(sae, tmp_path / "ours")
    there = SAE.load_from_disk(tmp_path / "ours")
    assert there.cfg.architecture() == ("topk" if hasattr(sae, "k") else "standard")
    assert_same(sae(X), numbers_of(there))

    there.save_model(tmp_path / "theirs")
    assert_same(sae(X), numbers_of(SAE.load_from_disk(tmp_path / "theirs")))
    back = load_from_saelens(tmp_path / "theirs")
    assert type(back) is type(sae)
    assert all(torch.equal(getattr(back, name), w) for name, w in sae.named_parameters())


def test_without_one_line_saelens_loads_it_in_silence_and_is_wrong(sae, tmp_path):
    from sae_lens import SAE

    export_to_saelens(sae, tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config.pop("apply_b_dec_to_input") is False
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    assert (SAE.load_from_disk(tmp_path).encode(X) - sae.encode(X)).abs().max() > 0.1


@pytest.mark.parametrize("save", ["save_model", "save_inference_model"])
@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "topk", "topk, rescaled"])
def test_an_sae_of_saelens_loads_with_the_same_numbers(architecture, subtracts, save, tmp_path):
    from sae_lens import (
        SAE,
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )

    sizes = {"d_in": 5, "d_sae": 20, "apply_b_dec_to_input": subtracts}
    if architecture == "standard":
        there = StandardTrainingSAE(StandardTrainingSAEConfig(**sizes))
    else:
        rescale = architecture == "topk, rescaled"
        there = TopKTrainingSAE(
            TopKTrainingSAEConfig(**sizes, k=3, rescale_acts_by_decoder_norm=rescale)
        )
    in_general_position(there)
    getattr(there, save)(tmp_path)
    assert_same(load_from_saelens(tmp_path)(X), numbers_of(SAE.load_from_disk(tmp_path)))
    assert_same(load_from_saelens(tmp_path)(X), numbers_of(there))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalize_activations": "layer_norm"}, "normalize_activations: 'layer_norm'"),
        ({"reshape_activations": "hook_z"}, "reshape_activations: 'hook_z'"),
    ],
)
def test_settings_that_ours_cannot_follow_are_refused(settings, message, tmp_path):
    from sae_lens import StandardSAE, StandardSAEConfig

    StandardSAE(StandardSAEConfig(d_in=5, d_sae=20, **settings)).save_model(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_from_saelens(tmp_path)


def test_other_architectures_are_refused_by_name(tmp_path):
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

    JumpReLUSAE(JumpReLUSAEConfig(d_in=5, d_sae=20)).save_model(tmp_path)
    with pytest.raises(ValueError, match="architecture: 'jumprelu'; only 'standard' or 'topk'"):
        load_from_saelens(tmp_path)


# --- the two that always subtract b_dec -----------------------------------------------------


def test_sparsify_gives_the_same_numbers(sae, tmp_path):
    from sparsify import SparseCoder

    export_to_sparsify(sae, tmp_path)
    there = SparseCoder.load_from_disk(tmp_path)
    found = there(X)
    acts = torch.zeros(len(X), 20).scatter(1, found.latent_indices, found.latent_acts)
    assert_same(sae(X), (found.sae_out, acts), 2e-6)

    there.save_to_disk(tmp_path / "theirs")
    again = SparseCoder.load_from_disk(tmp_path / "theirs")
    assert torch.equal(again(X).sae_out, found.sae_out)


def test_dictionary_learning_gives_the_same_numbers(sae, tmp_path):
    pytest.importorskip(
        "dictionary_learning", reason="needs the environment of benchmarks/requirements.txt"
    )
    from dictionary_learning.utils import load_dictionary

    sae.normalize_decoder_()  # AutoEncoder.from_pretrained does, and the activations follow
    export_to_dictionary_learning(sae, tmp_path)
    there, config = load_dictionary(str(tmp_path), "cpu")
    assert type(there).__name__ == config["trainer"]["dict_class"]
    assert_same(sae(X), there(X, output_features=True), 2e-6)

"""What cannot work is refused in one sentence, where it is first used."""

import math

import numpy as np
import pytest
import torch

from sae_lib import (
    SparseAutoencoder,
    TopKSparseAutoencoder,
    ToyModel,
    fvu,
    train_sae,
    train_saes,
    train_toy_models,
)
from sae_lib.metrics import cosine_similarity_matrix, match_features
from sae_lib.sae import random_directions

pytestmark = pytest.mark.usefixtures("global_random_state_untouched")
X = random_directions(6, 5)


def train(x=X, **settings):
    return train_sae(SparseAutoencoder(5, 20), x, **{"n_steps": 2} | settings)


def train_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        train()


DATA = [
    (X.tolist(), TypeError, "expected a tensor or an array, got a list"),
    (X.long(), TypeError, "expected floats, got torch.int64; try"),
    (np.ma.masked_array(X.numpy(), X.numpy() > 0), TypeError, "got a masked array"),
    (X[0], ValueError, "expected the shape"),
    (X[None, None], ValueError, r"got \(1, 1, 6, 5\)"),
    (X[:0], ValueError, r"expected some rows, got the shape \(0, 5\)"),
    (X * math.nan, ValueError, "got NaN or infinite ones"),
    (X.numpy() * np.inf, ValueError, "got NaN or infinite ones"),
]
TAKE_DATA = {
    "activations": [train, lambda x: train_saes([SparseAutoencoder(5, 20)], x)],
    "a": [lambda x: cosine_similarity_matrix(x, X)],
    "b": [lambda x: cosine_similarity_matrix(X, x)],
    "cosines": [match_features],
}
CALLS = [
    (lambda: train_sae(ToyModel(), X), TypeError, "expected a Sparse.*, got a ToyModel"),
    (lambda: train_sae(SparseAutoencoder(4, 9), X), ValueError, r"\(n_samples, 4\), got"),
    (train_under_autocast, RuntimeError, "outside torch.autocast"),
    (lambda: cosine_similarity_matrix(X, X[:, :4]), ValueError, r"b: expected the shape"),
    (lambda: train(l1_coefficient=math.nan), ValueError, "l1_coefficient: .* got nan"),
    (lambda: train(l1_coefficient="1"), TypeError, "l1_coefficient: .* got '1'"),
    (lambda: train(l1_start=0.1, l1_coefficient=0), ValueError, "l1_coefficient: .* got 0"),
    (lambda: train(n_steps=2.5), TypeError, "n_steps: expected a whole number, got 2.5"),
    (lambda: train(batch_size=0), ValueError, "batch_size: expected 1 to"),
    (lambda: TopKSparseAutoencoder(5, 20, k=21), ValueError, "k: expected 1 to 20, got 21"),
    (lambda: ToyModel(sparsity=1.0), ValueError, "sparsity: expected 0 to 0.999, got 1"),
    (lambda: ToyModel(seed=True), TypeError, "seed: expected a whole number, got True"),
    (lambda: ToyModel().sample_features(0), ValueError, "n: expected 1 to"),
    (lambda: SparseAutoencoder(5, 0), ValueError, "d_sae, .*: expected 1 to"),
    (lambda: fvu(X, X[:1]), ValueError, r"x_hat: expected .* \(6, 5\), got \(1, 5\)"),
    (lambda: train_saes([], X), ValueError, "saes: expected .*, got none"),
    (lambda: train_toy_models([ToyModel()] * 2), ValueError, "models: .* got one of them twice"),
]


def assert_refused(call, error: type, sentence: str) -> None:
    with pytest.raises(error, match=sentence) as raised:
        call()
    assert type(raised.value) is error and "\n" not in str(raised.value)


@pytest.mark.parametrize(("value", "error", "words"), DATA)
def test_data_that_cannot_work_is_refused_by_all_that_take_some(value, error, words):
    for name, functions in TAKE_DATA.items():
        for function in functions:
            assert_refused(lambda of=function: of(value), error, rf"^{name}.*{words}.*\.$")


@pytest.mark.parametrize(("call", "error", "sentence"), CALLS)
def test_settings_that_cannot_work_are_refused(call, error, sentence):
    assert_refused(call, error, sentence)


def test_what_is_made_does_not_depend_on_torchs_default_type_or_device():
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        sae, toy_model = SparseAutoencoder(5, 20), ToyModel()
        for made in (*sae.parameters(), *toy_model.parameters(), toy_model.sample_features(9)):
            assert made.dtype == torch.float32 and made.device.type == "cpu"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)

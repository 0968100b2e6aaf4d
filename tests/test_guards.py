"""Bad input is refused at the doors, in one sentence; outside settings of torch disturb no loop."""

import math

import numpy as np
import pytest
import torch
from variants import same_weights

from sae_lib import SparseAutoencoder, ToyModel, cosine_similarity_matrix, match_features
from sae_lib.many import train_saes, train_toy_models
from sae_lib.sae import random_directions
from sae_lib.toy_model import train_toy_model
from sae_lib.training import train_sae

pytestmark = pytest.mark.usefixtures("global_random_state_untouched")
X = random_directions(6, 5)


def train(x, **price):
    return train_sae(SparseAutoencoder(5, 20), x, n_steps=2, **price)


def train_one(x, **price):
    return train_saes([SparseAutoencoder(5, 20)], x, seeds=[0], n_steps=2, **price)


DOORS = {
    "train_sae": ("activations", train),
    "train_saes": ("activations", train_one),
    "cosine_similarity_matrix, first": ("a", lambda x: cosine_similarity_matrix(x, X)),
    "cosine_similarity_matrix, second": ("b", lambda x: cosine_similarity_matrix(X, x)),
    "match_features": ("cosines", match_features),
}
BAD = [
    (X.tolist(), TypeError, "must be a tensor or an array, but a list came"),
    (X.long(), TypeError, "must hold floats, but torch.int64 came; try"),
    (X * 1j, TypeError, "must hold floats, but torch.complex64 came; try"),
    (X[0], ValueError, "must have shape"),
    (X[None, None], ValueError, "but (1, 1, 6, 5) came"),
    (X[:0], ValueError, "is empty: its shape is (0, 5)"),
    (X * math.nan, ValueError, "holds NaN or infinite values"),
    (X.numpy() * np.inf, ValueError, "holds NaN or infinite values"),
]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("value", "error", "words"), BAD)
def test_each_door_refuses_bad_values_in_one_sentence(door, value, error, words):
    name, enter = DOORS[door]
    with pytest.raises(error) as raised:
        enter(value)
    sentence = str(raised.value)
    assert type(raised.value) is error and words in sentence
    assert sentence.startswith(name) and sentence.endswith(".") and "\n" not in sentence


PRICE = "l1_coefficient must be one finite number from 0 up"
FALLS = "A price that falls needs a finite l1_start and l1_coefficient above 0"


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: train_sae(ToyModel(), X), TypeError, "sae must be a Sparse.* a ToyModel"),
        (lambda: train_sae(SparseAutoencoder(4, 9), X), ValueError, r"shape \(n_samples, 4\), but"),
        (lambda: train(X[None]), ValueError, r"but \(1, 6, 5\) came"),
        (lambda: train_one(torch.stack([X, X])), ValueError, r"or \(1, \.\.\.\), but \(2, 6, 5\)"),
        (lambda: cosine_similarity_matrix(X, X[:, :4]), ValueError, r"b must have shape \(rows, 5"),
        (lambda: train(X, l1_coefficient=-1e-9), ValueError, f"{PRICE}; -1"),
        (lambda: train(X, l1_coefficient=math.nan), ValueError, f"{PRICE}; nan"),
        (lambda: train(X, l1_coefficient=math.inf), ValueError, f"{PRICE}; inf"),
        (lambda: train(X, l1_coefficient=[0.1, 0.2]), ValueError, rf"{PRICE}; \[0.1, 0.2\]"),
        (lambda: train_one(X, l1_coefficient=torch.ones(2)), ValueError, PRICE),
        (lambda: train(X, l1_start=math.inf), ValueError, FALLS),
        (lambda: train(X, l1_start=0.0), ValueError, FALLS),
        (lambda: train(X, l1_start=0.1, l1_coefficient=0), ValueError, FALLS),
    ],
)
def test_what_does_not_fit_together_is_refused_in_one_sentence(call, error, sentence):
    with pytest.raises(error, match=sentence) as raised:
        call()
    assert "\n" not in str(raised.value)


SETTINGS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}
TRAININGS = {
    "train_sae": lambda saes, toys: train_sae(saes[0], X, n_steps=20),
    "train_saes": lambda saes, toys: train_saes(saes, X, seeds=[0, 1], n_steps=20),
    "train_toy_model": lambda saes, toys: train_toy_model(toys[0], n_steps=20),
    "train_toy_models": lambda saes, toys: train_toy_models(toys, seeds=[0, 1], n_steps=20),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("training", TRAININGS)
def test_training_comes_to_the_same_weights_whatever_is_set_around_it(training, setting):
    inside, outside = (
        ([SparseAutoencoder(5, 20, seed=s) for s in (0, 1)], [ToyModel(seed=s) for s in (0, 1)])
        for _ in range(2)
    )
    start = [SparseAutoencoder(5, 20), ToyModel()]
    with SETTINGS[setting]():
        before = torch.is_grad_enabled()
        TRAININGS[training](*inside)
        assert torch.is_grad_enabled() == before  # the loop leaves it as it was
    TRAININGS[training](*outside)
    pairs = zip(inside[0] + inside[1], outside[0] + outside[1], strict=True)
    assert all(same_weights(a, b) for a, b in pairs)
    moved = [not same_weights(now[0], old) for now, old in zip(inside, start, strict=True)]
    assert moved == ["sae" in training, "toy" in training]

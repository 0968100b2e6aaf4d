"""Bad input: every public door refuses it with one sentence that names what came.

A door is a function of one bad value. A row of a table below is a door and the name that the
sentence must give; each kind of value has its list of bad ones.
"""

import numpy as np
import pytest
import torch

from sae_lib import (
    Matches,
    SparseAutoencoder,
    TopKSparseAutoencoder,
    ToyModel,
    chance_cosines,
    cosine_similarity_matrix,
    dead_latents,
    firing,
    fvu,
    group_latents,
    ica_directions,
    kmeans_directions,
    l0,
    live_directions,
    match_features,
    neuron_directions,
    oracle_sae,
    pca_directions,
    random_directions,
    sparse_coding_directions,
    train_sae,
    train_saes,
    train_toy_model,
    train_toy_models,
)

pytestmark = pytest.mark.usefixtures("global_random_state_untouched")
NAN, INF = float("nan"), float("inf")
X = random_directions(6, 5)
SAE = SparseAutoencoder(5, 20)
MATCHES = Matches(np.arange(2), np.ones(2))


def new(n=2):
    return [SparseAutoencoder(5, 20, seed=seed) for seed in range(n)]


def sae(activations=X, **settings):
    return train_sae(SAE, activations, **{"n_steps": 2} | settings)


def saes(activations=X, **settings):
    return train_saes(new(), activations, **{"n_steps": 2} | settings)


def toys(**settings):
    models = [ToyModel(seed=seed) for seed in range(2)]
    return train_toy_models(models, **{"n_steps": 2, "seeds": [0, 1]} | settings)


BAD_MATRICES = [
    (X.tolist(), TypeError, "must be a tensor or an array, but a list came"),
    (None, TypeError, "must be a tensor or an array, but a NoneType came"),
    (X.long(), TypeError, "must hold floats, but torch.int64 came; try"),
    (X.numpy() > 0, TypeError, "must hold floats, but torch.bool came; try"),
    (X[0], ValueError, "must have shape"),
    (X[None, None], ValueError, "but (1, 1, 6, 5) came"),
    (X[:0], ValueError, "is empty: its shape is (0, 5)"),
    (X * NAN, ValueError, "holds NaN or infinite values"),
    (X.numpy() * INF, ValueError, "holds NaN or infinite values"),
]
BAD_COUNTS = [
    (0, ValueError, "must be at least 1, but 0 came"),
    (np.int64(-3), ValueError, "must be at least 1, but -3 came"),
    (2.0, TypeError, "must be an int, but a float came: 2.0"),
    (np.float32(2), TypeError, "must be an int, but a float32 came"),
    ("2", TypeError, "must be an int, but a str came: '2'"),
    (True, TypeError, "must be an int, but a bool came"),
    (None, TypeError, "must be an int, but a NoneType came"),
]
BAD_NUMBERS = [
    (-1e-9, ValueError, "must be finite and not negative, but -1e-09 came"),
    (NAN, ValueError, "must be finite and not negative, but nan came"),
    (np.float32(INF), ValueError, "must be finite and not negative, but inf came"),
    ("0.1", TypeError, "but a str came"),
    (True, TypeError, "must be a number, but a bool came"),
    (np.bool_(True), TypeError, "must be a number, but a bool came"),
    (1j, TypeError, "must be a number, but a complex came"),
    (torch.tensor(0.1), TypeError, "but a Tensor came"),
]
NO_NUMBER = [(None, TypeError, "must be a number, but a NoneType came")]
BAD_SEEDS = [
    (None, TypeError, "must be an int, but a NoneType came"),
    ("abc", TypeError, "must be an int, but a str came: 'abc'"),
    (1.5, TypeError, "must be an int, but a float came: 1.5"),
    (True, TypeError, "must be an int, but a bool came"),
    ([0, 1], TypeError, "must be an int, but a list came: [0, 1]"),
    (-1, ValueError, "must lie between 0 and 2**63 - 1, but -1 came"),
    (2**63, ValueError, "must lie between 0 and 2**63 - 1, but 9223372036854775808 came"),
]
BAD_SEQUENCES = [
    (5, TypeError, "must be a list, but a int came"),
    ("01", TypeError, "must be a list, but a str came"),
    (torch.tensor(0), TypeError, "must be a list, but a Tensor came"),
    ([], ValueError, "must have at least one entry, but it is empty"),
    ([0], ValueError, "must have 2 entries, one for each, but 1 came"),
    (np.arange(3), ValueError, "must have 2 entries, one for each, but 3 came"),
]

DOORS = [
    (BAD_MATRICES, "a", lambda x: cosine_similarity_matrix(x, X)),
    (BAD_MATRICES, "b", lambda x: cosine_similarity_matrix(X, x)),
    (BAD_MATRICES, "cosines", match_features),
    (BAD_MATRICES, "feature_directions", lambda x: chance_cosines(x, 20)),
    (BAD_MATRICES, "feature_directions", lambda x: oracle_sae(x, 0.1)),
    (BAD_MATRICES, "latent_acts", l0),
    (BAD_MATRICES, "latent_acts", dead_latents),
    (BAD_MATRICES, "latent_acts", lambda x: group_latents(x, MATCHES)),
    (BAD_MATRICES, "latent_acts", lambda x: firing(X[:, :2], x, MATCHES)),
    (BAD_MATRICES, "strengths", lambda x: firing(x, X, MATCHES)),
    (BAD_MATRICES, "x", lambda x: fvu(x, X)),
    (BAD_MATRICES, "x_hat", lambda x: fvu(X, x)),
    (BAD_MATRICES, "activations", lambda x: live_directions(SAE, x)),
    (BAD_MATRICES, "activations", sae),
    (BAD_MATRICES, "activations", saes),
    (BAD_MATRICES, "activations", neuron_directions),
    (BAD_MATRICES, "activations", pca_directions),
    (BAD_MATRICES, "activations", ica_directions),
    (BAD_MATRICES, "activations", lambda x: kmeans_directions(x, 2)),
    (BAD_MATRICES, "activations", lambda x: sparse_coding_directions(x, 2)),
    (BAD_COUNTS, "n", lambda n: random_directions(n, 5)),
    (BAD_COUNTS, "d", lambda n: random_directions(5, n)),
    (BAD_COUNTS, "d_in", lambda n: SparseAutoencoder(n, 20)),
    (BAD_COUNTS, "d_sae", lambda n: SparseAutoencoder(5, n)),
    (BAD_COUNTS, "k", lambda n: TopKSparseAutoencoder(5, 20, k=n)),
    (BAD_COUNTS, "n_features", lambda n: ToyModel(n_features=n)),
    (BAD_COUNTS, "n_hidden", lambda n: ToyModel(n_hidden=n)),
    (BAD_COUNTS, "n", lambda n: ToyModel().sample_features(n)),
    (BAD_COUNTS, "n_steps", lambda n: train_toy_model(ToyModel(), n_steps=n)),
    (BAD_COUNTS, "batch_size", lambda n: toys(batch_size=n)),
    (BAD_COUNTS, "n_steps", lambda n: sae(n_steps=n)),
    (BAD_COUNTS, "batch_size", lambda n: sae(batch_size=n)),
    (BAD_COUNTS, "n_logged", lambda n: sae(n_logged=n)),
    (BAD_COUNTS, "n_steps", lambda n: saes(n_steps=n)),
    (BAD_COUNTS, "batch_size", lambda n: saes(batch_size=n)),
    (BAD_COUNTS, "d_sae", lambda n: chance_cosines(X, n)),
    (BAD_COUNTS, "n_draws", lambda n: chance_cosines(X, 20, n_draws=n)),
    (BAD_COUNTS, "n_clusters", lambda n: kmeans_directions(X, n)),
    (BAD_COUNTS, "n_atoms", lambda n: sparse_coding_directions(X, n)),
    (BAD_NUMBERS + NO_NUMBER, "l1_coefficient", lambda c: sae(l1_coefficient=c)),
    (BAD_NUMBERS + NO_NUMBER, "l1_coefficient", lambda c: saes(l1_coefficient=c)),
    (BAD_NUMBERS + NO_NUMBER, "l1_coefficient[1]", lambda c: saes(l1_coefficient=[0.1, c])),
    (BAD_NUMBERS, "l1_start", lambda c: sae(l1_start=c)),
    (BAD_NUMBERS, "l1_start", lambda c: saes(l1_start=c)),
    (BAD_NUMBERS + NO_NUMBER, "lr", lambda c: sae(lr=c)),
    (BAD_NUMBERS + NO_NUMBER, "lr", lambda c: train_toy_model(ToyModel(), lr=c)),
    (BAD_NUMBERS + NO_NUMBER, "sparsity", lambda c: ToyModel(sparsity=c)),
    (BAD_NUMBERS + NO_NUMBER, "l1_coefficient", lambda c: oracle_sae(X, c)),
    (BAD_SEEDS, "seed", lambda s: random_directions(2, 5, seed=s)),
    (BAD_SEEDS, "seed", lambda s: SparseAutoencoder(5, 20, seed=s)),
    (BAD_SEEDS, "seed", lambda s: ToyModel(seed=s)),
    (BAD_SEEDS[:4], "seed", lambda s: ToyModel().sample_features(2, seed=s)),  # takes a list
    (BAD_SEEDS, "seed", lambda s: train_toy_model(ToyModel(), seed=s)),
    (BAD_SEEDS, "seed", lambda s: toys(seeds=[0, s])),
    (BAD_SEEDS, "seed", lambda s: sae(seed=s)),
    (BAD_SEEDS, "seeds[1]", lambda s: saes(seeds=[0, s])),
    (BAD_SEEDS, "seed", lambda s: chance_cosines(X, 20, seed=s)),
    (BAD_SEEDS, "seed", lambda s: ica_directions(X, seed=s)),
    (BAD_SEEDS, "seed", lambda s: kmeans_directions(X, 2, seed=s)),
    (BAD_SEEDS, "seed", lambda s: sparse_coding_directions(X, 2, seed=s)),
    (BAD_SEQUENCES, "seeds", lambda s: saes(seeds=s)),
    (BAD_SEQUENCES, "seeds", lambda s: toys(seeds=s)),
    (BAD_SEQUENCES[3:], "l1_coefficient", lambda s: saes(l1_coefficient=s)),
    (BAD_SEQUENCES[:4], "saes", lambda s: train_saes(s, X, n_steps=2)),
    (BAD_SEQUENCES[:4], "models", lambda s: train_toy_models(s, seeds=[0], n_steps=2)),
]


def refusal(call, error, name, words) -> str:
    """What is wrong with how the call refuses, in one line; nothing if all is well."""
    try:
        call()
    except (ValueError, TypeError) as raised:
        sentence = str(raised)
        is_good = type(raised) is error and sentence.startswith(name) and words in sentence
        is_good &= sentence.endswith(".") and "\n" not in sentence
        return "" if is_good else f"{type(raised).__name__}: {sentence}"
    return "nothing was raised"


@pytest.mark.parametrize(
    ("bad_values", "name", "door"),
    [pytest.param(*row, id=f"{i} {row[1]}") for i, row in enumerate(DOORS)],
)
def test_every_door_refuses_every_bad_value_in_one_sentence(bad_values, name, door):
    wrong = {
        repr(value): refusal(lambda value=value: door(value), error, name, words)
        for value, error, words in bad_values
    }
    assert not {value: how for value, how in wrong.items() if how}
    untouched = SparseAutoencoder(5, 20).state_dict()
    assert all(map(torch.equal, SAE.state_dict().values(), untouched.values()))


SINGLE = [
    (lambda: sae(X[:, :4]), ValueError, "activations must have shape (n_samples, 5), but (6, 4)"),
    (lambda: sae(X[None]), ValueError, "activations must have shape (n_samples, 5), but (1, 6, 5)"),
    (lambda: saes(X[:, :4]), ValueError, "activations must have shape (n_samples, 5) or (2, "),
    (lambda: saes(X[None]), ValueError, "activations must be one pool or 2, but 1 came"),
    (lambda: sae(l1_start=0.0), ValueError, "A price that falls needs l1_start and l1_coefficient"),
    (lambda: sae(l1_start=0.1, l1_coefficient=0), ValueError, "A price that falls needs"),
    (
        lambda: saes(l1_start=0.1, l1_coefficient=[0.1, 0]),
        ValueError,
        "A price that falls needs l1_start and l1_coefficient above 0",
    ),
    (lambda: train_sae("sae", X), TypeError, "sae must be a SparseAutoencoder, but a str came"),
    (lambda: train_saes(SAE, X), TypeError, "saes must be a list, but a SparseAutoencoder came"),
    (lambda: TopKSparseAutoencoder(5, 20, k=21), ValueError, "k must be at most d_sae=20, but 21"),
    (lambda: ToyModel(sparsity=1), ValueError, "sparsity must lie in [0, 1), but 1 came"),
    (lambda: toys(n_steps=0), ValueError, "n_steps must be at least 1"),
    (
        lambda: train_toy_models([ToyModel(), ToyModel(n_hidden=4)], seeds=[0, 1]),
        ValueError,
        "A stack takes modules that are alike, but their shape of W differs",
    ),
    (
        lambda: train_toy_models([ToyModel(), ToyModel(sparsity=0.5)], seeds=[0, 1]),
        ValueError,
        "A stack takes modules that are alike, but their sparsity differs: 0.9 and 0.5",
    ),
    (
        lambda: train_toy_models([ToyModel()] * 2, seeds=[0, 1]),
        ValueError,
        "The same ToyModel came twice",
    ),
    (lambda: cosine_similarity_matrix(X, X[:, :4]), ValueError, "b must have shape (rows, 5)"),
    (lambda: live_directions(SAE, X[:, :4]), ValueError, "activations must have shape (rows, 5)"),
    (lambda: fvu(X, X[:1]), ValueError, "x and x_hat must have the same shape, but (6, 5) and (1"),
    (
        lambda: firing(X[:4, :2], X, MATCHES),
        ValueError,
        "strengths and latent_acts must have one row per input, but 4 and 6",
    ),
    (lambda: firing(X, X, MATCHES), ValueError, "matches is of 2 features, but strengths has 5"),
    (lambda: firing(X[:, :2], X[:, :1], MATCHES), ValueError, "matches names latent 1, but laten"),
    (lambda: group_latents(X[:, :1], MATCHES), ValueError, "matches names latent 1, but latent_a"),
    (lambda: pca_directions(X[:1]), ValueError, "activations are the same in every row"),
    (lambda: ica_directions(0 * X), ValueError, "activations are the same in every row"),
    (
        lambda: sparse_coding_directions(0 * X, 3),
        ValueError,
        "activations are the same in every row",
    ),
]


@pytest.mark.parametrize(("call", "error", "sentence"), SINGLE)
def test_what_does_not_fit_together_is_refused_in_one_sentence(call, error, sentence):
    assert not refusal(call, error, sentence, sentence)

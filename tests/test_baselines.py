"""The baselines on data whose answer is known, and the form of what they return."""

import functools

import numpy as np
import pytest
import torch

from sae_lib import ToyModel, cosine_similarity_matrix, match_features, random_directions
from sae_lib.baselines import (
    ica_directions,
    kmeans_directions,
    neuron_directions,
    pca_directions,
    sparse_coding_directions,
)

pytestmark = pytest.mark.usefixtures("global_random_state_untouched")
GENERATOR = np.random.default_rng(0)
SQUARE = torch.tensor(GENERATOR.uniform(-1, 1, (5_000, 2)), dtype=torch.float32)
SLANTED = torch.tensor([[1.0, 0.2], [0.5, 1.0]])  # two directions, a row each, 52 degrees apart

kmeans_of_four = functools.partial(kmeans_directions, n_clusters=4)
sparse_coding_of_four = functools.partial(sparse_coding_directions, n_atoms=4)
SIGNED = [neuron_directions, pca_directions, ica_directions]  # two a dimension, an opposite each


def found(directions, truth) -> float:
    """The worst matched cosine."""
    return match_features(cosine_similarity_matrix(directions, truth)).cosine.min()


@pytest.mark.parametrize("baseline", [*SIGNED, kmeans_of_four, sparse_coding_of_four])
def test_directions_have_length_one_run_both_ways_and_depend_on_the_seed_alone(baseline):
    x = SQUARE[:1_000] @ SLANTED
    directions = baseline(x)
    assert directions.shape == (4, 2) and directions.dtype == torch.float32
    assert baseline != neuron_directions or torch.equal(directions[:2], torch.eye(2))
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(4))
    if baseline in SIGNED:
        assert torch.equal(directions[2:], -directions[:2])
    if baseline not in SIGNED[:2]:
        again, other = (baseline(x, seed=seed) for seed in (0, 1))
        assert torch.equal(directions, again) and not torch.equal(directions, other)


def test_pca_finds_the_widest_direction_first_wherever_the_middle_lies():
    widths = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    x = torch.tensor(GENERATOR.uniform(-1, 1, (5_000, 5)), dtype=torch.float32) * widths
    for middle in (0, 1_000):  # where in single precision, what varies is lost beside its square
        axes = pca_directions(x + middle)[:5]
        assert axes.diag().abs().min() > 0.99


@pytest.mark.parametrize("axes", [random_directions(2, 5, seed=2), torch.eye(5)[:2]])
def test_ica_of_data_in_fewer_dimensions_has_two_directions_for_each_of_those(axes):
    directions, truth = ica_directions(SQUARE @ SLANTED @ axes), SLANTED @ axes
    assert directions.shape == (4, 5)  # no axis is nan, none is one in which nothing varies
    assert found(directions, torch.cat([truth, -truth])) > 0.99


def test_kmeans_finds_single_directions_and_skips_activations_without_one():
    truth = random_directions(4, 5, seed=3)
    strengths = torch.tensor(GENERATOR.uniform(0.1, 1, (400, 1)), dtype=torch.float32)
    silent = 0.005 * random_directions(400, 5, seed=4)
    x = torch.cat([silent, strengths * truth.repeat(100, 1), torch.zeros(9, 5)])
    for scale in (1e-3, 1e3):  # what is short, is short beside the others
        assert found(kmeans_directions(scale * x, 4), truth) > 0.999


def test_sparse_coding_finds_what_is_mixed_and_keeps_the_signs():
    truth = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    strengths = ToyModel(3, 2, sparsity=0.6).sample_features(4_000)
    assert found(sparse_coding_directions(5 * strengths @ truth, 6), truth) > 0.99


def test_activations_in_which_there_is_too_little_to_find_are_refused():
    for baseline in (pca_directions, ica_directions, sparse_coding_of_four):
        with pytest.raises(ValueError, match="expected rows that differ, got the same"):
            baseline(torch.ones(6, 5))
    with pytest.raises(ValueError, match="expected at least 4 rows that are not near zero, got 3"):
        kmeans_of_four(torch.cat([torch.eye(3), torch.zeros(9, 3)]))
    assert len(kmeans_of_four(torch.eye(4))) == 4

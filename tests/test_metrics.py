"""Every measure against numbers worked out by hand; matching and the oracle by brute force."""

import itertools

import numpy as np
import pytest
import torch

from sae_lib import SparseAutoencoder, agreement, chance_cosines, cosine_similarity_matrix, fires
from sae_lib.metrics import firing, fvu, l0, live_directions, match_features, oracle_sae, recovered
from sae_lib.sae import random_directions, sae_loss

pytestmark = pytest.mark.usefixtures("global_random_state_untouched")
E1, E2, E3 = torch.eye(3)


def rows(*vectors) -> torch.Tensor:
    return torch.stack(vectors)


def test_cosines_of_hand_made_vectors_are_signed_and_ignore_length():
    a = torch.tensor([[3.0, 4.0], [-2.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([[10.0, 0.0], [0.0, 0.1]])
    expected = torch.tensor([[0.6, 0.8], [-1.0, 0.0], [0.0, 0.0]])  # a zero row: 0, not nan
    torch.testing.assert_close(cosine_similarity_matrix(a, b.numpy()), expected.double())


@pytest.mark.parametrize("shape", [(4, 4), (6, 3), (3, 6), (1, 1)])
def test_matching_agrees_with_trying_every_assignment(shape):
    generator = torch.Generator().manual_seed(0)
    cosines = 2 * torch.rand(shape, generator=generator) - 1
    latent, cosine = match_features(cosines)
    small, wide = min(shape), cosines if shape[0] <= shape[1] else cosines.T
    best = max(
        wide[range(small), list(chosen)].sum().item()
        for chosen in itertools.permutations(range(max(shape)), small)
    )
    has_one = latent >= 0  # fewer latents than features leave some without: -1 and nan
    assert len(set(latent[has_one])) == has_one.sum() == small
    assert cosine[has_one].sum() == pytest.approx(best)
    assert cosine[has_one].tolist() == cosines[latent[has_one], has_one.nonzero()[0]].tolist()
    assert (latent[~has_one] == -1).all() and np.isnan(cosine[~has_one]).all()


def test_recovered_counts_features_with_a_latent_of_their_own_signed_and_one_to_one():
    truth = rows(E1, E2, -E3)
    assert recovered(rows(E1, 2 * E2, -3 * E3), truth) == 3
    assert recovered(rows(E1, E2, E3), truth) == 2  # the opposite of a feature is none
    assert recovered(rows(E1), rows(E1, E1, E2)) == 1  # one latent serves one feature
    tilted = rows(E1 + 0.2 * E2, E2, -E3)  # at a cosine of 1 / √1.04 = 0.9806 with E1
    assert [recovered(tilted, truth, at=at) for at in (0.98, 0.981)] == [3, 2]
    assert recovered(tilted, truth) == 2


def test_twenty_random_directions_in_five_dimensions_come_close_by_chance():
    """About 0.76: a best of twenty, less a little because no latent may serve twice."""
    t = np.linspace(-1, 1, 20_001)
    below = (2 + 3 * t - t**3) / 4  # P(cosine <= t) in 5 dimensions: its density is ∝ 1 - t²
    best_of_twenty = 1 - np.trapezoid(below**20, t)
    assert best_of_twenty == pytest.approx(0.763, abs=0.001)
    five_axes_both_ways = torch.cat([torch.eye(5), -torch.eye(5)])
    chance = chance_cosines(five_axes_both_ways, d_sae=20)
    assert chance.shape == (200, 10)
    assert best_of_twenty - 0.01 < chance.mean() < best_of_twenty
    truth = 3 * random_directions(4, 5)
    by_hand = match_features(cosine_similarity_matrix(random_directions(8, 5), truth))
    assert chance_cosines(truth, 8, n_draws=1)[0].tolist() == by_hand.cosine.tolist()


def test_a_latent_fires_above_one_hundredth_whatever_its_sign_and_l0_counts_them_in_a_row():
    latent_acts = torch.tensor([[0.0, 0.01, 0.0101], [-0.02, 1e-9, -0.0099]])
    assert fires(latent_acts).tolist() == [[False, False, True], [True, False, False]]
    assert l0(latent_acts) == 1
    assert l0(torch.tensor([[[1.0, 0.0, -2.0]], [[0.0, 0.5, 0.009]]])) == 1.5


def test_fvu_of_three_predictions_of_one_small_set():
    x = torch.tensor([[0.0, 10.0], [4.0, 10.0]])
    assert fvu(x, x) == 0
    assert fvu(x, x.mean(dim=0).expand(2, 2)) == 1  # the mean explains nothing
    x_hat = torch.tensor([[1.0, 10.0], [4.0, 12.0]])
    assert fvu(x, x_hat) == fvu(x[None], x_hat[None]) == 5 / 8  # leading axes count as one


def test_agreement_is_the_share_with_a_counterpart_taken_both_ways():
    a, b = rows(E1, E2), rows(E1, 2 * E1, -E2)
    assert agreement(a, b) == agreement(b, a) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert agreement(a, a) == 1
    for tilt, agreed in ((0.14, 1), (0.15, 0)):  # cosines of 0.9903 and 0.9889 with E1
        assert agreement(rows(E1), rows(E1 + tilt * E3)) == agreed


def test_live_directions_are_those_that_fire_on_some_input_and_without_any_nothing_agrees():
    sae = SparseAutoencoder(3, 3)
    sae.W_enc.data.copy_(torch.eye(3))
    x = torch.tensor([[1.0, -1.0, 0.009]] * 3 + [[-1.0, 0.02, -1.0]])
    for inputs in (x, x.view(2, 2, 3)):
        assert torch.equal(live_directions(sae, inputs), sae.W_dec.detach()[:2])
    none = live_directions(sae, -x.abs())
    assert none.shape == (0, 3)
    assert agreement(none, x) == agreement(x, none) == agreement(none, none) == 0


def test_firing_of_two_features_on_six_inputs_by_hand():
    strengths = torch.tensor([[1, 0], [0.5, 0], [0, 0.8], [0.4, 0.4], [0, 0], [1, 0.005]])
    acts = torch.tensor([[1, 0], [0.4, 0], [0, 0], [0, 0.4], [0.009, 0.2], [1, 0]])
    fired = firing(strengths, acts)
    # feature 0 is on in inputs 0, 1, 3, 5, and it fires in 0, 1, 5 (0.009 does not count)
    # feature 1 is on in inputs 2, 3 (0.005 does not count), and it fires in 3, 4
    assert fired.precision.tolist() == pytest.approx([3 / 3, 1 / 2])
    assert fired.recall.tolist() == pytest.approx([3 / 4, 1 / 2])
    # alone: feature 0 in inputs 0 and 1; feature 1 in input 2
    assert fired.scale.tolist() == pytest.approx([(1 + 0.4) / (1 + 0.5), 0 / 0.8])
    strengths[:, 1] = acts[:, 0] = 0  # never on; never fires
    fired = firing(strengths, acts)
    assert fired.precision[0].isnan() and fired.recall[0] == 0
    assert fired.precision[1] == 0 and fired.recall[1].isnan() and fired.scale[1].isnan()


def test_oracle_has_the_unit_ground_truth_as_dictionary_and_no_other_code_has_a_lower_loss():
    axes = torch.cat([torch.eye(5), -torch.eye(5)])  # five directions and their opposites
    oracle, x = oracle_sae(2 * axes, 0.1), random_directions(200, 5)
    assert torch.equal(oracle.W_dec, axes) and torch.equal(oracle.W_enc, axes.T)
    assert oracle.encode(torch.eye(5)[:1]).tolist()[0] == pytest.approx([0.95] + [0] * 9)
    with torch.no_grad():
        code = oracle.encode(x)
        best = sae_loss(x, oracle.decode(code), code, 0.1).total
        for seed, size in enumerate((1e-3, 1e-2, 0.1)):
            noise = torch.randn(code.shape, generator=torch.Generator().manual_seed(seed))
            other = torch.relu(code + size * noise)
            assert sae_loss(x, oracle.decode(other), other, 0.1).total > best

"""What the lessons' sentences say, at SEED = 0 to 9: about ten minutes, pytest -m slow -n 2.

A sentence is named by its cell, beside what it claims.
"""

import re

import numpy as np
import pytest
import torch
from test_notebook import LESSON, TRUST, run_until

from sae_lib import cosine_similarity_matrix, fvu, l0, recovered

pytestmark = [pytest.mark.usefixtures("displayed"), pytest.mark.slow]
each_seed = pytest.mark.parametrize("seed", range(10))


@each_seed
def test_every_sentence_of_the_lesson_is_true_at_this_seed(seed, capsys):
    n = run_until("splice", {"SEED": seed}, without={"knobs", "knobs-code"}, notebook=LESSON)
    the_toy_model_is_as_described(n)
    the_training_goes_as_described(n)
    the_features_are_read_as_described(n, capsys.readouterr().out)


def the_toy_model_is_as_described(n: dict) -> None:
    """Sections 2 and 3."""
    cosines = cosine_similarity_matrix(n["ground_truth"], n["ground_truth"])
    answers, n_on = n["answers"], n["n_on"].float()
    none, one = ((n_on == k).float().mean() for k in (0, 1))
    assert ((n["lengths"] - 1).abs() < 0.05).all(), "sec2-end: ten directions of length 1"
    assert ((cosines < -0.98).sum(dim=1) == 1).all(), "sec2-end: in five opposite pairs"
    assert ((cosines.abs() < 0.02).sum(dim=1) == 8).all(), "toy-model: axes at right angles"
    assert abs(n_on.mean() - 1) < 0.015, "sec3-end: an input holds about one"
    assert abs(none - 0.35) < 0.01, "collect: none about 35 %"
    assert abs(one - 0.39) < 0.01, "collect: one about 39 %"
    assert answers.float().mean() > 5, "neurons-text: more than half, on average"
    assert answers.min() > 2, "neurons-text: neuron 0 answers to several"


def the_training_goes_as_described(n: dict) -> None:
    """Section 5 up to the curves, section 6."""
    history, found, activations = n["history"], n["n_recovered"], n["activations"]
    step, curve = history.step, history.l0
    total = np.array(history.reconstruction) + np.array(history.sparsity)
    error = np.array(history.reconstruction) / activations.var(dim=0, correction=0).sum().item()
    gone = int(np.flatnonzero(error >= 0.01)[-1]) + 1  # entry from which less than 1 % is left
    all_ten = next(i for i in range(len(found)) if min(found[i:]) == 10)
    halfway = np.searchsorted(step, step[all_ten] // 2)
    highest = max(curve[: all_ten + 1])
    assert fvu(activations, n["x_hat"]) < 5e-5, "run-training: as good as gone"
    assert step[gone] < 400, "curves-text: the error drops fast"
    assert found[gone] <= 2, "curves-found-text: hardly any feature then"
    assert curve[gone] > 0.6 * highest, "curves-l0-text: L0 stays high"
    assert curve[-1] < 0.5 * highest, "curves-l0-text: then it falls"
    assert total[halfway] < 0.01 * total[0], "curves-end: the last step is tiny"
    assert found[halfway] < 10, "curves-end: the last step is tiny"
    assert 1 < l0(n["latent_acts"]) < 2.5, "curves-end: L0 ends above the features"
    partners = n["cosines"][n["matches"].latent].min(dim=1).values
    assert n["judgement"].found.all(), "verdict: all are recovered"
    assert (partners < -0.97).all(), "sec6-text: a blue cell in the same row"
    assert 0.75 < n["judgement"].chance.mean() < 0.77, "chance-end: about 0.76"
    assert recovered(n["untrained"].W_dec, n["ground_truth"]) == 0, "sec6: one that learned nothing"
    assert n["complete"] == 16, "luck: sixteen of sixteen"


def the_features_are_read_as_described(n: dict, out: str) -> None:
    """The end of section 5, section 7."""
    off, on = (float(x) for x in re.findall(r"price o\w+ ?: (\d+) of 10 found", out))
    l0_off, l0_on = (float(x) for x in re.findall(r"found, L0 ([\d.]+)", out))
    activations = n["activations"]
    left_off, left_on = (fvu(activations, n[k](activations)[0]) for k in ("unpriced", "switched"))
    cosines = cosine_similarity_matrix(n["unpriced"].W_dec, n["ground_truth"])
    degrees = torch.rad2deg(torch.arccos(cosines.max(dim=0).values)).mean()
    assert left_off < 1e-4 and off <= 2, "switch-text: no error, and no features"
    assert left_on < 5e-4, "switch-text: the error hardly moves"
    assert l0_off > 4 and 1 < l0_on < 2.5, "switch-text: L0 falls"
    assert on == 10, "switch-text: the features snap into place"
    assert 25 < degrees < 40, "directions-end: off by some 25 to 40 degrees"
    precision, recall = n["fired"].precision.min(), n["fired"].recall.min()
    assert precision > 0.98, "firing-text: when it fires, its feature is there"
    assert 0.9 < recall < precision, "firing-text: now and then it misses one"
    assert n["partner_on"][n["missed"]].float().mean() > 0.9, "firing-text: nearly all of those"
    assert abs(n["fired"].scale.mean() - 1) < 0.005, "firing-end: shrinkage is next to nothing"
    lines = [line for line in out.splitlines() if "of the model's loss" in line]
    kept = [float(line.split(":")[1].split("%")[0]) for line in lines]
    moved = [int(line.rsplit(":")[-1]) for line in lines]
    assert min(kept[:2]) >= 99.9 > kept[2], "splice-text: full marks for both"
    assert recovered(n["frozen"].W_dec, n["ground_truth"]) == 0, "splice-more: learned none"
    assert kept[2] > 98 > 90 > kept[3], "sec7-end: a frozen decoder rebuilds nearly everything"
    assert moved[0] == 1 and min(moved[1:]) >= 3, "sec7-end: one output, and several"


@each_seed
def test_every_sentence_of_the_second_lesson_is_true_at_this_seed(seed):
    n = run_until("b5", {"SEED": seed}, without=set(), notebook=TRUST)
    bars = {name: np.mean(found) for name, found in n["ablations"].items()}
    grown = max(sae.W_dec.norm(dim=1).max() for sae in n["variants"]["without unit norm"])
    assert bars["the full recipe"] == 10, "b2: the full recipe"
    assert bars["without L1 (λ = 0)"] <= 2, "b2-end: without the price they never come"
    assert bars["without patience (100 batches)"] <= 3, "b2-end: nearly all are missing"
    assert bars["without ReLU"] >= 6, "b2-end: without ReLU they mostly come out"
    assert bars["without unit norm"] == sorted(bars.values())[-2], "b2-text: the least harm"
    assert bars["without unit norm"] >= 8, "b2-text: most runs still find all ten"
    assert grown > 1.5, "b2-end: and the rows grow"
    usual = {name: found[0] for name, found in n["counts"].items()}
    for name in ("FastICA ±", "k-means", "the trained SAE"):
        assert usual[name] == 10, "b4-text: ICA and k-means find all"
    assert usual["non-negative sparse coding"] >= 8, "b4-text: sparse coding all or nearly all"
    assert usual["PCA ±"] <= 3, "b4-text: PCA does not"
    directions, pool = n["crowded"].feature_directions, n["crowded_pool"]
    saes = [pair[0] for pair, _ in n["crowded_saes"].values()]
    found = [recovered(sae.W_dec, directions) for sae in saes]
    left = [fvu(pool, sae(pool)[0]) for sae in saes]
    assert found[0] <= 1, "b5-text: no feature at λ = 0.001"
    assert left[0] < 1e-3, "b5-text: and nothing left to rebuild"
    assert l0(saes[0].encode(pool)) > 3, "b5-end: which keeps more latents busy"
    assert found[1] == 15, "b5-text: all fifteen at λ = 0.2"
    for count, share in zip(found, left, strict=True):
        assert count < 15 or share > 0.05, "b5-text: and it rebuilds worse"

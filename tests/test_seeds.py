"""What the lessons' sentences say, at SEED = 0 to 9: about ten minutes, pytest -m slow -n 2.

A sentence is named by its cell; the condition beside it is what it claims.
"""

import re

import numpy as np
import pytest
import torch
from test_notebook import LESSON, TRUST, run_until

from sae_lib import cosine_similarity_matrix, fvu, l0, recovered

pytestmark = pytest.mark.usefixtures("displayed")


def untrue(sentences: dict) -> dict:
    return {sentence: value for sentence, (value, holds) in sentences.items() if not holds}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_every_sentence_of_the_lesson_is_true_at_this_seed(seed, capsys):
    n = run_until("splice", {"SEED": seed}, without={"knobs", "knobs-code"}, notebook=LESSON)
    out = capsys.readouterr().out
    assert not untrue(toy_model(n) | training(n) | switch(n, out) | firing(n) | back(out))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_every_sentence_of_the_second_lesson_is_true_at_this_seed(seed):
    n = run_until("b5", {"SEED": seed}, without=set(), notebook=TRUST)
    assert not untrue(trust(n))


def toy_model(n: dict) -> dict:
    """Sections 2 and 3."""
    cosines = cosine_similarity_matrix(n["ground_truth"], n["ground_truth"])
    opposite = (cosines < -0.98).sum(dim=1)
    right_angles = (cosines.abs() < 0.02).sum(dim=1)
    lengths, answers, n_on = n["lengths"], n["answers"], n["n_on"].float()
    none, one = ((n_on == k).float().mean().item() for k in (0, 1))
    return {
        "sec2-end: ten directions of length 1": (lengths, ((lengths - 1).abs() < 0.05).all()),
        "sec2-end: in five opposite pairs": (opposite, (opposite == 1).all()),
        "toy-model: five axes at right angles": (right_angles, (right_angles == 8).all()),
        "sec3-end: an input holds about one": (n_on.mean(), abs(n_on.mean() - 1) < 0.015),
        "collect: none about 35 %": (none, abs(none - 0.35) < 0.01),
        "collect: one about 39 %": (one, abs(one - 0.39) < 0.01),
        "neurons-text: more than half, on average": (answers, answers.float().mean() > 5),
        "neurons-text: neuron 0 answers to several": (answers, answers.min() > 2),
    }


def training(n: dict) -> dict:
    """Section 5 up to the curves, section 6."""
    history, found, activations = n["history"], n["n_recovered"], n["activations"]
    step, curve = history.step, history.l0
    variance = activations.var(dim=0, correction=0).sum().item()
    error = np.array(history.reconstruction) / variance
    gone = int(np.flatnonzero(error >= 0.01)[-1]) + 1  # entry from which less than 1 % is left
    all_ten = next(i for i in range(len(found)) if min(found[i:]) == 10)
    total = np.array(history.reconstruction) + np.array(history.sparsity)
    halfway = np.searchsorted(step, step[all_ten] // 2)
    flat, highest = total[halfway] / total[0], max(curve[: all_ten + 1])
    unexplained, final_l0 = fvu(activations, n["x_hat"]), l0(n["latent_acts"])
    partners = n["cosines"][n["matches"].latent].min(dim=1).values
    untrained = recovered(n["untrained"].W_dec, n["ground_truth"])
    chance = n["judgement"].chance.mean()
    return {
        "run-training: as good as gone": (unexplained, unexplained < 5e-5),
        "curves-text: the error drops fast": (step[gone], step[gone] < 400),
        "curves-found-text: hardly any feature then": (found[gone], found[gone] <= 2),
        "curves-l0-text: L0 stays high": (curve, curve[gone] > 0.6 * highest),
        "curves-l0-text: then it falls": (curve[-1], curve[-1] < 0.5 * highest),
        "curves-end: the last step is tiny": (flat, flat < 0.01 and found[halfway] < 10),
        "curves-end: L0 ends above the features": (final_l0, 1 < final_l0 < 2.5),
        "verdict: all are recovered": (n["judgement"].found, n["judgement"].found.all()),
        "sec6-text: a blue cell in the same row": (partners, (partners < -0.97).all()),
        "chance-end: about 0.76": (chance, 0.75 < chance < 0.77),
        "sec6: one that learned nothing": (untrained, untrained == 0),
        "luck: sixteen of sixteen": (n["complete"], n["complete"] == 16),
    }


def switch(n: dict, out: str) -> dict:
    """The end of section 5, and the marks of section 7."""
    off, on = (float(x) for x in re.findall(r"price o\w+ ?: (\d+) of 10 found", out))
    l0_off, l0_on = (float(x) for x in re.findall(r"found, L0 ([\d.]+)", out))
    activations = n["activations"]
    left = [fvu(activations, n[k](activations)[0]) for k in ("unpriced", "switched")]
    cosines = cosine_similarity_matrix(n["unpriced"].W_dec, n["ground_truth"])
    degrees = float(torch.rad2deg(torch.arccos(cosines.max(dim=0).values)).mean())
    return {
        "switch-text: no error, and no features": (left[0], left[0] < 1e-4 and off <= 2),
        "switch-text: the error hardly moves": (left[1], left[1] < 5e-4),
        "switch-text: L0 falls": ((l0_off, l0_on), l0_off > 4 and 1 < l0_on < 2.5),
        "switch-text: the features snap into place": (on, on == 10),
        "directions-end: off by some 25 to 40 degrees": (degrees, 23 < degrees < 40),
    }


def firing(n: dict) -> dict:
    """Section 7: precision, recall, misses, shrinkage."""
    precision, recall = n["fired"].precision.min(), n["fired"].recall.min()
    cancelled = n["partner_on"][n["missed"]].float().mean().item()
    scale = n["fired"].scale.mean()
    return {
        "firing-text: when it fires, its feature is there": (precision, precision > 0.98),
        "firing-text: now and then it misses one": (recall, 0.9 < recall < precision),
        "firing-text: in nearly all of those cases": (cancelled, cancelled > 0.9),
        "firing-end: shrinkage is next to nothing": (scale, abs(scale - 1) < 0.005),
    }


def back(out: str) -> dict:
    lines = [line for line in out.splitlines() if "of the model's loss" in line]
    kept = [float(line.split(":")[1].split("%")[0]) for line in lines]
    moved = [int(line.rsplit(":")[-1]) for line in lines]
    return {
        "splice-text: full marks for both": (kept, min(kept[:2]) >= 99.9 > kept[2]),
        "sec7-end: one output, and several": (moved, moved[0] == 1 and min(moved[1:]) >= 3),
    }


def trust(n: dict) -> dict:
    """Leave one thing out; what you would have tried first; fifteen features."""
    bars = {name: np.mean(found) for name, found in n["ablations"].items()}
    second, free = sorted(bars.values())[-2], bars["without unit norm"]
    no_price, hasty = bars["without L1 (λ = 0)"], bars["without patience (100 batches)"]
    grown = max(sae.W_dec.norm(dim=1).max() for sae in n["variants"]["without unit norm"])
    usual = {name: found[0] for name, found in n["counts"].items()}
    all_ten = [usual[name] for name in ("FastICA ±", "k-means", "the trained SAE")]
    coding, frozen = usual["non-negative sparse coding"], usual["SAE, frozen random decoder"]
    directions, pool = n["crowded"].feature_directions, n["crowded_pool"]
    saes = [pair[0] for pair, _ in n["crowded_saes"].values()]
    found = [recovered(sae.W_dec, directions) for sae in saes]
    on = [l0(sae.encode(pool)) for sae in saes]
    left = [fvu(pool, sae(pool)[0]) for sae in saes]
    worse = all(share > 0.05 for count, share in zip(found, left, strict=True) if count == 15)
    low, high = 0, 1
    return {
        "b2: the full recipe": (bars, bars["the full recipe"] == 10),
        "b2-end: without the price they never come": (bars, no_price <= 2),
        "b2-end: without patience nearly all are missing": (bars, hasty <= 3),
        "b2-end: without ReLU they mostly come out": (bars, bars["without ReLU"] >= 6),
        "b2-text: without unit norm does the least harm": (bars, free == second),
        "b2-end: and the rows grow": (grown, grown > 1.5),
        "b4-text: ICA and k-means find all": (usual, all_ten == [10, 10, 10]),
        "b4-text: sparse coding all or nearly all": (usual, coding >= 8),
        "b4-text: PCA and a frozen decoder do not": (usual, max(usual["PCA ±"], frozen) <= 3),
        "b4-end: the frozen decoder explains it": (n["frozen_fvu"], n["frozen_fvu"] < 0.03),
        "b5-text: no feature at λ = 0.001": (found, found[low] <= 1),
        "b5-text: and nothing left to rebuild": (left, left[low] < 1e-3),
        "b5-end: which keeps more latents busy": (on, on[low] > 3),
        "b5-text: and it rebuilds worse": (left, worse),
        "b5-text: all fifteen at λ = 0.2": (found, found[high] == 15),
    }

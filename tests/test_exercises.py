"""The checks: right answers pass, likely mistakes are named, stubs stay 'not attempted yet'."""

import copy
import functools
import itertools
import math
import re

import numpy as np
import pytest
import torch

from sae_lib import SparseAutoencoder, cosine_similarity_matrix, recovered, sae_loss, train_sae
from sae_lib.lesson import exercises
from tools import pictures

dying_sae = functools.cache(exercises.dying_sae)


@pytest.fixture
def short(monkeypatch):
    """Trainings that tell nothing, for what does not depend on them."""
    dying = dying_sae()
    two_steps = lambda *data, **settings: train_sae(*data, **settings | {"n_steps": 2})  # noqa: E731
    monkeypatch.setattr(exercises, "dying_sae", lambda: copy.deepcopy(dying))
    monkeypatch.setattr(exercises, "train_sae", two_steps)


@pytest.fixture
def said(capsys, monkeypatch):
    """What a check says of an answer; none was checked before."""
    monkeypatch.setattr(exercises, "_best", {})

    def verdict(check, answer) -> str:
        assert check(answer) is None
        return capsys.readouterr().out

    return verdict


# Answers as a learner would write them:


def price(l1_coefficient, d_in, scale):
    return l1_coefficient / d_in * scale


def cheat(truth):
    return truth[truth[:, 0] > 0].repeat(4, 1)


def revive(sae, x, *, loud=False, same=False, resets=("W_enc", "b_enc")):
    with torch.no_grad():
        x_hat, latent_acts = sae(x)
        dead = ~(latent_acts > 0.01).any(dim=0)
        error = (x - x_hat).square().sum(dim=-1) * x.norm(dim=-1)
        rows = torch.multinomial(error, len(dead))[dead]
        rows = rows[:1].expand(len(rows)) if same else rows
        directions = x[rows] / x[rows].norm(dim=-1, keepdim=True)
        sae.W_dec[dead] = directions
        if "W_enc" in resets:
            sae.W_enc[:, dead] = (1 if loud else 2 * x.shape[1] / len(dead)) * directions.T
        if "b_enc" in resets:
            sae.b_enc[dead] = 0


def raising(error):
    def answer(*inputs):
        raise error

    return answer


stub = raising(NotImplementedError)
each_function = pytest.mark.parametrize(
    ("name", "check", "right"),
    [
        ("the same price", exercises.check_price, price),
        ("the cheat", exercises.check_cheat, cheat),
        ("dead latents", exercises.check_revive, revive),
    ],
)


def test_only_what_was_checked_is_counted_and_the_best_of_each_stays(said, capsys):
    for answer in (price, lambda *inputs: 0, stub):
        said(exercises.check_price, answer)
    said(exercises.check_cheat, lambda truth: 0)
    said(exercises.check_diagnosis, {})
    exercises.progress()
    counts = "1 passed, 1 tried, 1 not attempted yet"
    assert capsys.readouterr().out == f"Exercises checked here: {counts}.\n"


@each_function
def test_right_answers_pass_and_stubs_are_not_attempted_yet(name, check, right, said):
    text = said(check, right)
    assert text.startswith(f"{name}: correct.")
    if check == exercises.check_revive:
        assert int(re.search(r"Left .* alive, (\d+)", text)[1]) < 8
    else:
        for form in (torch.as_tensor, np.asarray, lambda v: list(np.atleast_1d(v))):
            assert ": correct." in said(check, lambda *inputs, form=form: form(right(*inputs)))
    for answer in (stub, torch.no_grad()(stub), None):
        assert said(check, answer) == f"{name}: not attempted yet.\n"


@each_function
def test_errors_and_strange_answers_become_one_line(name, check, right, said, short):
    for answer, words in (
        (raising(KeyError("W_dec\nand more")), "It raised KeyError: 'W_dec\\nand more'"),
        (raising(ValueError("one\ntwo")), "It raised ValueError: one\n"),
        (raising(NotImplementedError("softmax")), "It raised NotImplementedError: softmax"),
        (raising(SystemExit("done")), "SystemExit: done"),
        (3.0, "'float' object is not callable"),
        *((lambda *inputs, v=v: v, "") for v in ({}, "x", itertools.count(), None)),
    ):
        text = said(check, answer)
        assert text.startswith(f"{name}: not yet. ") and words in text and text.count("\n") == 1


def test_the_right_price_is_right():
    """The colleague's loss is a constant times ours, so its minimum is the same."""
    x, scale = exercises.mystery_activations(), 3.0
    x_hat, h = SparseAutoencoder(5, 8)(x)
    hers = (scale * x_hat - scale * x).square().mean()
    hers += price(0.1, 5, scale) * (scale * h).sum(dim=-1).mean()
    torch.testing.assert_close(hers, sae_loss(x, x_hat, h, 0.1).total * scale**2 / 5)


def nearly(truth):
    return torch.cat([cheat(truth)[:19], truth[truth[:, 0] < 0][:1]])


RIGHT = {"A": 3, "B": 1, "C": 4, "D": 2}  # 1 too early, 2 λ too small, 3 no norm, 4 wrong axis
PRICE, CHEAT, RUNS = exercises.check_price, exercises.check_cheat, exercises.check_diagnosis


@pytest.mark.parametrize(
    ("check", "answer", "text"),
    [
        *((PRICE, wrong, re.escape(hint)) for hint, wrong in exercises.WRONG_PRICES.items()),
        (PRICE, lambda p, d, c: p * c / d if c < 1 else 7, "For λ = 0.001, d_in = 5, .* gives 7"),
        (PRICE, lambda *inputs: [1, 2], "Expected one number"),
        (CHEAT, lambda truth: truth[:5], r"Expected a W_dec of shape \(20, 5\), got \(5, 5\)"),
        (CHEAT, lambda truth: truth.repeat(2, 1), ".* deservedly: 10 of 10 features are there"),
        (CHEAT, nearly, ".* deservedly: 6 of 10 features are there"),
        (CHEAT, lambda truth: cheat(truth) + 0.2, ".* and 0.999 is wanted"),
        (CHEAT, lambda truth: truth[:1].repeat(20, 1), ".* neither a latent nor the opposite"),
        (CHEAT, lambda truth: cheat(exercises._pairs(0)), ".* neither a latent"),  # the first alone
        (CHEAT, lambda truth: cheat(truth) * math.nan, ".* got NaN"),
        (CHEAT, lambda truth: None, "Expected numbers, got None"),
        (RUNS, RIGHT | {"D": None}, "Right: A, B, C.\n"),
        (RUNS, {"A": 3, "B": 7, "D": None}, "Right: A.\n  B: look at where the curves end.\n$"),
        (RUNS, {"B": 2}, "Right: none.\n  B: "),
        *((RUNS, odd, "Expected numbers as in") for odd in ([3, 1, 4, 2], {"A": "three"})),
    ],
)
def test_a_likely_mistake_is_named(check, answer, text, said):
    assert re.match(f"[a-z ]+: not yet. {text}", said(check, answer))


def test_a_right_diagnosis_may_be_written_as_words_and_an_empty_one_is_none(said):
    right = {run.lower(): str(n) for run, n in RIGHT.items()}
    assert "correct. All four runs are told apart." in said(RUNS, right)
    for blank in (dict.fromkeys("ABCD"), {}, None):
        assert "not attempted yet." in said(RUNS, blank)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (0.01, r"not yet\. λ = 0\.01 recovers \d+ of .* Too small: .*"),
        (torch.tensor(0.12), r"correct\. λ = 0\.12 recovers 16 of the 16 .* unexplained\."),
        (np.float32(0.5), r"not yet\. λ = 0\.5 recovers \d+ of .* Too large: .*"),
        (math.nan, r"not yet\. .*expected 0 to 1e\+06, got nan\."),
        *((x, r"not yet\. Expected .*, got .*") for x in ("0,1", [0.1, 1], {}, 10**400)),
        (None, r"not attempted yet\."),
    ],
)
def test_lambda_is_judged_by_the_features_it_finds(answer, text, said):
    assert re.fullmatch(f"choosing λ: {text}\n", said(exercises.check_lambda, answer))


def test_the_mystery_is_what_it_says_and_a_copy():
    directions, x = exercises._mystery()
    cosines = cosine_similarity_matrix(directions, directions) - 2 * torch.eye(16)
    assert cosines.max().item() == pytest.approx(0.2, abs=1e-5)
    exercises.mystery_activations().zero_()
    assert exercises.mystery_activations().equal(x) and x.abs().max() > 0.5


def test_the_broken_runs_show_the_faults_that_are_asked_for(monkeypatch, said):
    saes = []
    kept = lambda sae, *data, **settings: saes.append(sae) or train_sae(sae, *data, **settings)  # noqa: E731
    monkeypatch.setattr(pictures, "train_sae", kept)
    runs = pictures.broken_runs()
    found = [recovered(sae.W_dec, exercises._mystery()[0]) for sae in saes]
    assert found[0] == 16 and max(found[1:]) < 12  # A, C, D; B is the start of the healthy run
    assert list(runs) == ["healthy", *exercises.FAULTS]
    healthy, a, b, _, d = ({k: v[-1] for k, v in run.items()} for run in runs.values())
    # with at least twice the room that moved starts took
    assert a["norm"] > 2  # never renormalised: it grows
    assert b["step"] < 100 and healthy["step"] == 799
    assert b["l0"] > 1.4 * healthy["l0"]  # stopped while it still falls
    assert max(runs["C"]["norm"][5:]) < 0.7  # the wrong axis
    assert 1_000 * d["error"] < healthy["error"] and d["l0"] > 1.5 * healthy["l0"]  # λ too small
    for name in ("healthy", "B", "D"):
        np.testing.assert_allclose(runs[name]["norm"], 1, rtol=1e-5)


def and_then(change, *, from_call=1):
    """revive, and then a change to the SAE, from some call on."""
    calls = itertools.count(1)
    return lambda sae, x: (revive(sae, x), next(calls) >= from_call and change(sae))


SILENT = r"(\d+) of \1 dead latents still fire on no input\. Did both W_enc and b_enc"
CHANGED = "Latents that were alive were changed too"


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (functools.partial(revive, resets=[]), SILENT),
        (functools.partial(revive, same=True), "do not find all: .* a direction of its own"),
        (functools.partial(revive, loud=True), "do not find all: .* Too loud"),
        (and_then(lambda sae: sae.W_enc.data.mul_(1.01)), CHANGED),
        (and_then(lambda sae: sae.b_enc.data.zero_(), from_call=2), CHANGED),
        (and_then(lambda sae: sae.W_dec.data.neg_(), from_call=2), CHANGED),
        (lambda sae, x: sae.b_enc.data.fill_(math.nan), "NaN or infinite"),
        (lambda sae, x: sae.b_enc.zero_(), "write `with torch.no_grad"),
    ],
)
def test_wrong_revivals_are_named(answer, hint, said, short):
    assert re.match(f"dead latents: not yet. .*{hint}", said(exercises.check_revive, answer))


def test_fifteen_of_sixteen_is_not_all(said, short, monkeypatch):
    normalising = and_then(lambda sae: sae.normalize_decoder_())
    for found, verdict in ((15, ": not yet."), (16, ": correct.")):
        monkeypatch.setattr(exercises, "recovered", lambda *of, found=found: found)
        assert verdict in said(exercises.check_lambda, 0.1)
        assert verdict in said(exercises.check_revive, normalising)


def test_a_revival_gets_the_same_draw_each_time(said, short):
    before, first = torch.get_rng_state(), said(exercises.check_revive, revive)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert said(exercises.check_revive, revive) == first

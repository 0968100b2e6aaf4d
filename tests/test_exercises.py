"""The marks: right answers pass, likely mistakes are named, stubs stay 'not attempted yet'."""

import functools
import itertools
import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

from sae_lib import SparseAutoencoder, cosine_similarity_matrix, recovered, sae_loss, train_sae
from sae_lib.lesson import exercises


@pytest.fixture(autouse=True)
def fresh_status(monkeypatch):
    fresh = dict.fromkeys(exercises._status, exercises.NOT_ATTEMPTED)
    monkeypatch.setattr(exercises, "_status", fresh)


@pytest.fixture
def short(monkeypatch):
    """Trainings that tell nothing, for what does not depend on them."""

    def train_two_steps(sae, activations, **settings):
        n_steps = 400 if settings["l1_coefficient"] == 1 else 2  # what kills the latents stays
        return train_sae(sae, activations, **settings | {"n_steps": n_steps})

    monkeypatch.setattr(exercises, "train_sae", train_two_steps)


def verdict(capsys, mark, answer) -> str:
    assert mark(answer) is None
    return capsys.readouterr().out


# Answers as a learner would write them:


def price(l1_coefficient, d_in, scale):
    return l1_coefficient / d_in * scale


def cheat(truth):
    return truth[truth[:, 0] > 0].repeat(4, 1)


def revive(sae, x, *, loud=False, same=False, resets=("W_enc", "b_enc"), all_=False):
    with torch.no_grad():
        x_hat, latent_acts = sae(x)
        dead = ~(latent_acts > 0.01).any(dim=0) | all_
        error = (x - x_hat).square().sum(dim=-1) * x.norm(dim=-1)
        rows = torch.multinomial(error, len(dead))[dead]
        rows = rows[:1].expand(len(rows)) if same else rows
        directions = x[rows] / x[rows].norm(dim=-1, keepdim=True)
        sae.W_dec[dead] = directions
        if "W_enc" in resets:
            sae.W_enc[:, dead] = (1 if loud else 2 * x.shape[1] / len(dead)) * directions.T
        if "b_enc" in resets:
            sae.b_enc[dead] = 0


def stub(*inputs):
    raise NotImplementedError


FUNCTIONS = [
    ("the same price", exercises.mark_price, price),
    ("the cheat", exercises.mark_cheat, cheat),
    ("dead latents", exercises.mark_revive, revive),
]
each_function = pytest.mark.parametrize(("name", "mark", "right"), FUNCTIONS)


@each_function
def test_a_right_answer_passes_and_is_counted(name, mark, right, capsys):
    assert verdict(capsys, mark, right).startswith(f"{name}: correct.")
    exercises.progress()
    assert capsys.readouterr().out == "Exercises: 1 of 5 passed, 0 tried, 4 not attempted yet.\n"
    verdict(capsys, mark, lambda *inputs: 0)  # a worse answer takes nothing away
    exercises.progress()
    assert "1 of 5 passed" in capsys.readouterr().out


@each_function
def test_stubs_are_not_attempted_yet(name, mark, right, capsys):
    for answer in (stub, torch.no_grad()(stub), None):
        assert verdict(capsys, mark, answer) == f"{name}: not attempted yet.\n"
    for mark in (exercises.mark_lambda, exercises.mark_diagnosis):
        assert verdict(capsys, mark, None).endswith(": not attempted yet.\n")


@each_function
def test_errors_and_strange_answers_become_one_line(name, mark, right, capsys, short):
    def broken(*inputs):
        raise KeyError("W_dec\nand more")

    def interrupted(*inputs):
        raise KeyboardInterrupt

    said = f"{name}: not yet. It raised KeyError: 'W_dec\\nand more'\n"
    assert verdict(capsys, mark, broken) == said
    assert "SystemExit: done" in verdict(capsys, mark, lambda *inputs: sys.exit("done"))
    assert "'float' object is not callable" in verdict(capsys, mark, 3.0)
    with pytest.raises(KeyboardInterrupt):  # is no answer
        mark(interrupted)
    endless = itertools.count()
    for answer in (lambda: 0, lambda *i: {}, lambda *i: "1", lambda *i: endless, lambda *i: None):
        text = verdict(capsys, mark, answer)
        assert text.startswith(f"{name}: not yet. ") and text.count("\n") == 1
    exercises.progress()
    assert "0 of 5 passed, 1 tried" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "mark", "right"), FUNCTIONS[:2])
def test_forms_of_a_right_answer(name, mark, right, capsys):
    for form, said in (
        (torch.as_tensor, "correct."),
        (lambda value: torch.as_tensor(value).numpy(), "correct."),
        (lambda value: list(torch.atleast_1d(torch.as_tensor(value))), "correct."),
        (lambda value: torch.as_tensor(value) + 0j, "not yet. Complex numbers came"),
    ):
        answer = lambda *inputs, form=form: form(right(*inputs))  # noqa: E731
        assert said in verdict(capsys, mark, answer)


@pytest.mark.parametrize(("name", "mark", "right"), FUNCTIONS[1:])
def test_what_an_answer_does_to_its_inputs_moves_no_mark(name, mark, right, capsys):
    def damaging(*inputs):
        value = right(*inputs)
        inputs[-1].zero_()
        return value

    assert ": correct." in verdict(capsys, mark, damaging)
    assert ": not yet." in verdict(capsys, mark, lambda *inputs: inputs[-1].zero_().repeat(2, 1))


def test_each_wrong_price_is_named_or_shown_where_it_is_off(capsys):
    for hint, wrong in exercises.WRONG_PRICES.items():
        text = verdict(capsys, exercises.mark_price, wrong)
        assert text == f"the same price: not yet. {hint}\n"
    text = verdict(capsys, exercises.mark_price, lambda p, d, c: p * c / d if c < 1 else 7)
    assert "For λ = 0.001, d_in = 5, scale = 2.0 it gives 7" in text
    assert "One number is wanted" in verdict(capsys, exercises.mark_price, lambda *a: [1, 2])


def test_the_right_price_is_right():
    """The colleague's loss is a constant times ours, at every SAE, so its minimum is the same."""
    x, scale = exercises.mystery_activations(), 3.0
    for seed in range(3):
        x_hat, h = SparseAutoencoder(5, 8, seed=seed)(x)
        hers = (scale * x_hat - scale * x).square().mean()
        hers += price(0.1, 5, scale) * (scale * h).sum(dim=-1).mean()
        torch.testing.assert_close(hers, sae_loss(x, x_hat, h, 0.1).total * scale**2 / 5)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda truth: truth[truth[:, 0] > 0], "must have shape (20, 5), but (5, 5) came"),
        (lambda truth: truth.repeat(2, 1), "deservedly: 10 of 10 features are there"),
        (lambda truth: truth[:1].repeat(20, 1), "have neither a latent nor the opposite of one"),
        (lambda truth: cheat(exercises._pairs(0)), "have neither a latent"),  # of one truth only
        (lambda truth: cheat(truth) * math.nan, "NaN or infinite"),
        (lambda truth: {}.get(0), "is a return missing?"),
    ],
)
def test_cheats_that_fool_nobody(answer, said, capsys):
    text = verdict(capsys, exercises.mark_cheat, answer)
    assert text.startswith("the cheat: not yet. ") and said in text


@pytest.mark.parametrize(
    ("l1_coefficient", "said"),
    [
        (0.01, "not yet. λ = 0.01 recovers 0 of the 16 hidden features, with 0.0% of the"),
        (torch.tensor(0.12), "correct. λ = 0.12 recovers 16 of the 16 hidden features, with 6.6%"),
        (np.float32(0.5), "Too large: weak features are cut off"),
    ],
)
def test_lambda_is_judged_by_the_features_it_finds(l1_coefficient, said, capsys):
    text = verdict(capsys, exercises.mark_lambda, l1_coefficient)
    assert said in text
    assert ("Too small" in text) == (l1_coefficient == 0.01)


@pytest.mark.parametrize(
    "answer", [-1.0, math.nan, math.inf, "0,1", [0.1, 1], {}, 0.1 + 0j, 10**400]
)
def test_a_lambda_that_is_no_lambda_gets_a_sentence(answer, capsys):
    text = verdict(capsys, exercises.mark_lambda, answer)
    assert text.startswith("choosing λ: not yet. ") and text.count("\n") == 1 and len(text) < 250


def test_the_mystery_is_what_it_says_and_a_copy_and_a_healthy_run_finds_it():
    directions, x = exercises._mystery()
    cosines = cosine_similarity_matrix(directions, directions) - 2 * torch.eye(16)
    assert cosines.max().item() == pytest.approx(0.2, abs=1e-5)
    exercises.mystery_activations().zero_()
    assert exercises.mystery_activations().equal(x) and x.abs().max() > 0.5
    sae = SparseAutoencoder(5, 32)
    train_sae(sae, x, l1_coefficient=0.15, n_steps=800)  # as the runs of the fourth exercise
    assert recovered(sae.W_dec, directions) == 16


def test_the_right_diagnosis_passes_and_a_wrong_one_says_which_curve_to_look_at(capsys):
    for blank in (dict.fromkeys("ABCD"), {}):
        text = verdict(capsys, exercises.mark_diagnosis, blank)
        assert text == "finding the bug: not attempted yet.\n"
    right = {"A": 3, "B": 1, "C": 4, "D": 2}
    assert ": correct. All four" in verdict(capsys, exercises.mark_diagnosis, right)
    text = verdict(capsys, exercises.mark_diagnosis, {"A": 3, "B": 7, "D": None})
    hint = exercises.FAULTS["B"][1]
    assert text == f"finding the bug: not yet. Right: A.\n  B: {hint}\n"
    for diagnosis in ("3142", [3, 1, 4, 2], itertools.count()):
        text = verdict(capsys, exercises.mark_diagnosis, diagnosis)
        assert text.startswith("finding the bug: not yet. Give each run the number")


SILENT = "28 of 28 dead latents still fire on no input"
LEFT = "4 of 32 latents alive, 0 of 16"


def replacing(sae, x):
    sae.W_dec = nn.Parameter(sae.W_dec.detach().clone())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (functools.partial(revive, resets=[]), f"{SILENT}. Did both W_enc and b_enc"),
        (functools.partial(revive, same=True), f"{LEFT} features found. Give each dead latent"),
        (functools.partial(revive, all_=True), "Latents that were alive were changed too"),
        (lambda sae, x: sae(x), SILENT),
        (replacing, SILENT),
        (lambda sae, x: sae.b_enc.data.fill_(math.nan), "NaN or infinite"),
        (lambda sae, x: sae.b_enc.zero_(), "write `with torch.no_grad():`"),
    ],
)
def test_wrong_revivals_are_named(answer, said, capsys):
    text = verdict(capsys, exercises.mark_revive, answer)
    assert text.startswith("dead latents: not yet. ") and said in text


def test_a_revival_that_finds_too_little_is_told_the_likely_cause(capsys, short):
    loud = functools.partial(revive, loud=True)
    assert "do not find all" in (text := verdict(capsys, exercises.mark_revive, loud))
    assert "Too loud" in text
    assert "a direction of its own" in verdict(capsys, exercises.mark_revive, revive)


def test_without_reviving_the_dead_stay_dead_and_the_mark_is_the_same_each_time(capsys):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = verdict(capsys, exercises.mark_revive, revive)
    assert f"16 of 16 features found. Left alone: {LEFT}" in first
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert verdict(capsys, exercises.mark_revive, revive) == first

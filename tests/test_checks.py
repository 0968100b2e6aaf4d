"""The marks: right answers pass, every mistake is named, stubs stay 'not attempted yet'."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from sae_lib import SparseAutoencoder, checks, sae_loss
from sae_lib.metrics import cosine_similarity_matrix, match_features


@pytest.fixture(autouse=True)
def fresh_status(monkeypatch):
    monkeypatch.setattr(checks, "_status", dict.fromkeys(checks.NAMES, checks.NOT_ATTEMPTED))


def verdict(capsys, check, answer) -> str:
    assert check(answer) is None
    return capsys.readouterr().out


# --- answers as a learner would write them, not as the library does ----------------------


def forward(x, W_enc, b_enc, W_dec, b_dec):
    feature_acts = torch.clamp(torch.einsum("bi,is->bs", x, W_enc) + b_enc, min=0)
    return b_dec + torch.matmul(feature_acts, W_dec), feature_acts


def loss(x, x_hat, feature_acts, l1_coefficient):
    squared_error = ((x - x_hat) ** 2).sum() / len(x)
    return squared_error + l1_coefficient * torch.linalg.norm(feature_acts, ord=1, dim=1).mean()


def train_step(sae, optimizer, x, l1_coefficient):
    x_hat, feature_acts = sae(x)
    total = sae_loss(x, x_hat, feature_acts, l1_coefficient).total
    total.backward()
    optimizer.step()
    optimizer.zero_grad()  # at the end is as good
    sae.W_dec.data = nn.functional.normalize(sae.W_dec.data, dim=1)
    return total.item()


def cosine(W_dec, feature_directions):
    return nn.functional.cosine_similarity(W_dec[:, None], feature_directions[None], dim=-1)


def matching(cosines):
    features, latents = linear_sum_assignment(-cosines.T)
    assert (features == np.arange(len(features))).all()
    return list(latents)


def stub_forward(x, W_enc, b_enc, W_dec, b_dec):
    """x (batch, d_in) -> x_hat (batch, d_in), feature_acts (batch, d_sae)"""
    ...


def stub_loss(x, x_hat, feature_acts, l1_coefficient):
    """-> one number, the total"""
    ...


def stub_train_step(sae, optimizer, x, l1_coefficient):
    """One step, in place."""
    ...


def stub_cosine(W_dec, feature_directions): ...


def stub_matching(cosines):
    pass


EXERCISES = [
    (checks.check_forward, checks.FORWARD, forward, stub_forward),
    (checks.check_loss, checks.LOSS, loss, stub_loss),
    (checks.check_renorm, checks.RENORM, train_step, stub_train_step),
    (checks.check_cosine, checks.COSINE, cosine, stub_cosine),
    (checks.check_matching, checks.MATCHING, matching, stub_matching),
]
each_exercise = pytest.mark.parametrize(
    ("check", "exercise", "right", "stub"), EXERCISES, ids=[e[1].name for e in EXERCISES]
)


@each_exercise
def test_right_answers_pass(check, exercise, right, stub, capsys):
    assert verdict(capsys, check, right) == f"{exercise.name}: correct.\n"
    assert verdict(capsys, check, exercise.right) == f"{exercise.name}: correct.\n"
    checks.progress()
    assert capsys.readouterr().out == "Exercises: 1 of 7 passed, 0 tried, 6 not attempted yet.\n"


@each_exercise
def test_stubs_are_not_attempted_yet(check, exercise, right, stub, capsys):
    def raising(*inputs):
        raise NotImplementedError

    for answer in (stub, raising, None, ...):
        assert verdict(capsys, check, answer) == f"{exercise.name}: not attempted yet.\n"
    checks.progress()
    assert capsys.readouterr().out == "Exercises: 0 of 7 passed, 0 tried, 7 not attempted yet.\n"


@pytest.mark.parametrize(
    ("check", "exercise", "hint", "mistake"),
    [
        pytest.param(check, exercise, hint, mistake, id=f"{exercise.name}: {hint[:40]}")
        for check, exercise, *_ in EXERCISES
        for hint, mistake in exercise.mistakes
    ],
)
def test_every_mistake_is_named(check, exercise, hint, mistake, capsys):
    text = verdict(capsys, check, mistake)
    assert text == f"{exercise.name}: not yet. It looks as if {hint}\n"


@each_exercise
def test_an_answer_without_return_or_effect_is_told_so(check, exercise, right, stub, capsys):
    def forgetful(*inputs):
        result = torch.zeros(3)
        result.mean()

    assert verdict(capsys, check, forgetful) == f"{exercise.name}: not yet. {exercise.nothing}\n"


@each_exercise
def test_exceptions_and_strange_answers_become_one_line(check, exercise, right, stub, capsys):
    def broken(*inputs):
        raise KeyError("W_dec\nand more")

    text = verdict(capsys, check, broken)
    assert text == f"{exercise.name}: not yet. It raised KeyError: 'W_dec\\nand more'\n"
    for answer in (lambda: 0, lambda *inputs: {}, lambda *inputs: "ReLU", 3.0, torch.zeros(2)):
        text = verdict(capsys, check, answer)
        assert text.startswith(f"{exercise.name}: not yet. ") or check is checks.check_renorm
        assert text.count("\n") == 1


@each_exercise
def test_a_second_answer_replaces_the_first(check, exercise, right, stub, capsys):
    verdict(capsys, check, exercise.mistakes[0][1])
    checks.progress()
    assert capsys.readouterr().out == "Exercises: 0 of 7 passed, 1 tried, 6 not attempted yet.\n"
    verdict(capsys, check, right)
    checks.progress()
    assert capsys.readouterr().out == "Exercises: 1 of 7 passed, 0 tried, 6 not attempted yet.\n"


# --- mistakes written out in full, to see that each gets its own sentence -----------------


def pair_swapped(x, W_enc, b_enc, W_dec, b_dec):
    return forward(x, W_enc, b_enc, W_dec, b_dec)[::-1]


def linear_layers(x, W_enc, b_enc, W_dec, b_dec):
    h = nn.functional.relu(nn.functional.linear(x, W_enc, b_enc))
    return nn.functional.linear(h, W_dec, b_dec), h


def fivefold(x, x_hat, feature_acts, l1_coefficient):
    return ((x - x_hat) ** 2).mean(dim=1).mean() + l1_coefficient * feature_acts.sum(1).mean()


def all_means(x, x_hat, feature_acts, l1_coefficient):
    return nn.functional.mse_loss(x_hat, x) + l1_coefficient * feature_acts.mean()


def step_after_normalising(sae, optimizer, x, l1_coefficient):
    sae.normalize_decoder_()
    x_hat, feature_acts = sae(x)
    optimizer.zero_grad()
    sae_loss(x, x_hat, feature_acts, l1_coefficient).total.backward()
    optimizer.step()


def step_without_no_grad(sae, optimizer, x, l1_coefficient):
    step_after_normalising(sae, optimizer, x, l1_coefficient)
    sae.W_dec /= sae.W_dec.norm(dim=-1, keepdim=True)


def step_with_new_tensor(sae, optimizer, x, l1_coefficient):
    train_step(sae, optimizer, x, l1_coefficient)
    sae.W_dec = sae.W_dec / sae.W_dec.norm(dim=-1, keepdim=True)


def step_with_new_parameter(sae, optimizer, x, l1_coefficient):
    optimizer.zero_grad()
    sae_loss(x, *sae(x), l1_coefficient).total.backward()
    optimizer.step()
    sae.W_dec = nn.Parameter(nn.functional.normalize(sae.W_dec, dim=1))


def rows_of_scipy(cosines):
    return linear_sum_assignment(cosines, maximize=True)[0]


def columns_of_scipy(cosines):
    return linear_sum_assignment(cosines.numpy(), maximize=True)[1]


def first_come(cosines):
    free, latents = set(range(len(cosines))), []
    for column in cosines.T.tolist():
        latents.append(max(free, key=lambda i: column[i]))
        free.remove(latents[-1])
    return np.array(latents)


@pytest.mark.parametrize(
    ("check", "answer", "said"),
    [
        (checks.check_forward, pair_swapped, "swapped"),
        (checks.check_forward, linear_layers, "W_enc was transposed"),
        (
            checks.check_forward,
            lambda *a: forward(*a)[0],
            "Return x_hat and feature_acts; the number of results was 1",
        ),
        (checks.check_forward, lambda *a: (forward(*a)[0][:, :3], forward(*a)[1]), "shape (6, 5)"),
        (checks.check_forward, lambda *a: (forward(*a)[0] + 0.5, forward(*a)[1]), "up to 0.5"),
        (checks.check_loss, fivefold, "fivefold"),
        (checks.check_loss, all_means, "both terms were averaged"),
        (checks.check_loss, lambda *a: loss(*a) + 1, "1 of 1 numbers are off, by up to 1"),
        (checks.check_loss, lambda x, *a: (x - a[0]).square(), "must have shape ()"),
        (checks.check_loss, sae_loss, "Return the total; the number of results was 3"),
        (checks.check_renorm, step_after_normalising, "before optimizer.step()"),
        (checks.check_renorm, step_without_no_grad, "torch.no_grad()"),
        (checks.check_renorm, step_with_new_tensor, "plain tensor"),
        (checks.check_renorm, step_with_new_parameter, "new parameter"),
        (checks.check_cosine, lambda a, b: cosine(b, a), "transposed"),
        (checks.check_cosine, lambda a, b: a @ b.T / a.norm(dim=1)[:, None], "only the decoder"),
        (checks.check_cosine, lambda a, b: cosine(a, b) * 0, "48 of 48 numbers are off"),
        (checks.check_matching, rows_of_scipy, "rising order"),
        (checks.check_matching, columns_of_scipy, "the reverse is wanted"),
        (checks.check_matching, first_come, "each pick was the best one left"),
        (checks.check_matching, match_features, "Return the latents; the number of results was 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_mistakes_written_out(check, answer, said, capsys):
    text = verdict(capsys, check, answer)
    assert ": not yet. " in text
    assert said in text


# --- choosing λ ---------------------------------------------------------------------------


def test_choosing_lambda_starts_as_not_attempted(capsys):
    assert verdict(capsys, checks.check_lambda, None) == "choosing λ: not attempted yet.\n"


@pytest.mark.parametrize(
    ("l1_coefficient", "said"),
    [
        (0.01, "choosing λ: not yet. λ = 0.01 recovers 0 of the 16 hidden features, with 0.0%"),
        (0.15, "choosing λ: correct. λ = 0.15 recovers 16 of the 16"),
        (0.5, "Too large: weak features are cut off"),
        (50, "Too large: weak features are cut off"),
    ],
)
def test_lambda_is_judged_by_the_features_it_finds(l1_coefficient, said, capsys):
    text = verdict(capsys, checks.check_lambda, l1_coefficient)
    assert said in text
    assert ("Too small" in text) == (l1_coefficient == 0.01)


@pytest.mark.parametrize("l1_coefficient", [-1.0, math.nan, math.inf, "0.1", torch.tensor(0.1)])
def test_a_lambda_that_is_no_lambda_gets_a_sentence(l1_coefficient, capsys):
    text = verdict(capsys, checks.check_lambda, l1_coefficient)
    assert text.startswith("choosing λ: not yet. my_l1_coefficient must be")


def test_the_mystery_is_what_it_says_and_a_copy():
    directions, x = checks._mystery()
    cosines = cosine_similarity_matrix(directions, directions) - 2 * torch.eye(16)
    assert cosines.max().item() == pytest.approx(0.2, abs=1e-5)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(16))
    checks.mystery_activations().zero_()
    assert checks.mystery_activations().equal(x) and x.abs().max() > 0.5


# --- finding the bug ----------------------------------------------------------------------


@pytest.mark.parametrize("diagnosis", [dict.fromkeys("ABCD"), {}, None, "stub"])
def test_the_diagnosis_starts_as_not_attempted(diagnosis, capsys):
    text = verdict(capsys, checks.check_diagnosis, diagnosis)
    assert text == "finding the bug: not attempted yet.\n"


def test_the_right_diagnosis_passes(capsys):
    text = verdict(capsys, checks.check_diagnosis, {"A": 3, "B": 1, "C": 4, "D": 2})
    assert text == "finding the bug: correct. All four runs are told apart.\n"
    text = verdict(capsys, checks.check_diagnosis, {"A": "3", "B": "1", "C": "4", "D": "2"})
    assert "correct" in text


def test_a_wrong_diagnosis_says_which_curve_to_look_at(capsys):
    text = verdict(capsys, checks.check_diagnosis, {"A": 4, "B": 2, "C": 3, "D": 1})
    assert text == "finding the bug: not yet. Right: none.\n" + "".join(
        f"  {run}: {hint}\n" for run, (_, hint) in checks.FAULTS.items()
    )
    text = verdict(capsys, checks.check_diagnosis, {"A": 3, "B": 7, "D": None})
    assert text.splitlines()[0] == "finding the bug: not yet. Right: A."
    assert [line[:4] for line in text.splitlines()[1:]] == ["  B:"]


def test_the_broken_runs_show_their_faults():
    runs = checks.broken_runs()
    assert list(runs) == ["healthy", "A", "B", "C", "D"]
    last = {name: {k: v[-1] for k, v in run.items()} for name, run in runs.items()}
    assert last["A"]["norm"] > 2  # never renormalised: it grows
    assert last["B"]["step"] < 100 and last["healthy"]["step"] == 799
    assert last["B"]["error"] > 1.2 * last["healthy"]["error"]  # stopped while it still falls
    assert last["C"]["norm"] < 0.6  # the wrong axis
    assert last["D"]["error"] < 0.1 * last["healthy"]["error"]  # λ too small
    assert last["D"]["l0"] > 1.5 * last["healthy"]["l0"]
    for name in ("healthy", "B", "D"):
        np.testing.assert_allclose(runs[name]["norm"], 1, rtol=1e-5)


def test_a_healthy_run_of_this_length_would_have_found_the_features():
    directions, x = checks._mystery()
    sae = SparseAutoencoder(5, 32)
    checks.train_sae(sae, x, l1_coefficient=0.15, n_steps=800)
    assert match_features(cosine_similarity_matrix(sae.W_dec, directions)).cosine.min() > 0.99

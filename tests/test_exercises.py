"""The marks: right answers pass, every mistake is named, stubs stay 'not attempted yet'."""

import inspect
import itertools
import math
import sys

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from sae_lib import SparseAutoencoder, sae_loss, training
from sae_lib import sae as sae_module
from sae_lib.lesson import checks, use
from sae_lib.metrics import cosine_similarity_matrix, match_features


@pytest.fixture(autouse=True)
def fresh_status(monkeypatch):
    monkeypatch.setattr(checks, "_status", dict.fromkeys(checks.NAMES, checks.NOT_ATTEMPTED))


def verdict(capsys, check, answer) -> str:
    assert check(answer) is None
    return capsys.readouterr().out


# --- answers as a learner would write them, not as the library does ----------------------


def forward(x, W_enc, b_enc, W_dec, b_dec):
    latent_acts = torch.clamp(torch.einsum("bi,is->bs", x, W_enc) + b_enc, min=0)
    return b_dec + torch.matmul(latent_acts, W_dec), latent_acts


def loss(x, x_hat, latent_acts, l1_coefficient):
    squared_error = ((x - x_hat) ** 2).sum() / len(x)
    return squared_error + l1_coefficient * torch.linalg.norm(latent_acts, ord=1, dim=1).mean()


def train_step(sae, optimizer, x, l1_coefficient):
    x_hat, latent_acts = sae(x)
    total = sae_loss(x, x_hat, latent_acts, l1_coefficient).total
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
    """x (batch, d_in) -> x_hat (batch, d_in), latent_acts (batch, d_sae)"""
    ...


def stub_loss(x, x_hat, latent_acts, l1_coefficient):
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
    for written_out in exercise.right:
        assert verdict(capsys, check, written_out) == f"{exercise.name}: correct.\n"
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
def test_a_better_answer_counts_and_a_worse_one_takes_nothing_away(
    check, exercise, right, stub, capsys
):
    hint, mistake = exercise.mistakes[0]
    for answer, said, counted in (
        (mistake, f"not yet. It looks as if {hint}", "0 of 7 passed, 1 tried, 6"),
        (stub, "not attempted yet.", "0 of 7 passed, 1 tried, 6"),
        (right, "correct.", "1 of 7 passed, 0 tried, 6"),
        (mistake, f"not yet. It looks as if {hint}", "1 of 7 passed, 0 tried, 6"),
        (stub, "not attempted yet.", "1 of 7 passed, 0 tried, 6"),
    ):
        assert verdict(capsys, check, answer) == f"{exercise.name}: {said}\n"
        checks.progress()
        assert capsys.readouterr().out == f"Exercises: {counted} not attempted yet.\n"


@each_exercise
def test_leaving_python_is_a_wrong_answer_but_interrupting_is_not(
    check, exercise, right, stub, capsys
):
    def leaving(*inputs):
        sys.exit("done")

    def interrupted(*inputs):
        raise KeyboardInterrupt

    text = verdict(capsys, check, leaving)
    assert text == f"{exercise.name}: not yet. It raised SystemExit: done\n"
    with pytest.raises(KeyboardInterrupt):
        check(interrupted)


@each_exercise
def test_code_that_returns_nothing_is_an_attempt(check, exercise, right, stub, capsys):
    def one_line(*inputs):
        inputs[0] if inputs else inputs

    def named_result(first, *rest):
        first = rest  # noqa: F841
        return None

    for answer in (one_line, named_result):
        assert verdict(capsys, check, answer) == f"{exercise.name}: not yet. {exercise.nothing}\n"
    with_decorator = torch.no_grad()(stub)
    assert verdict(capsys, check, with_decorator) == f"{exercise.name}: not attempted yet.\n"


# --- right in another form, and right on one input only -----------------------------------


def with_grad(answer):
    return lambda *inputs: answer(
        *(t.requires_grad_() if torch.is_tensor(t) else t for t in inputs)
    )


def brute_force(cosines):
    n_latents, n_features = cosines.shape
    picks = itertools.permutations(range(n_latents), n_features)
    return max(picks, key=lambda pick: cosines[list(pick), range(n_features)].sum().item())


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        (checks.check_forward, lambda *a: list(forward(*a))),
        (checks.check_forward, lambda *a: [part.numpy() for part in forward(*a)]),
        (checks.check_forward, lambda *a: [part.tolist() for part in forward(*a)]),
        (checks.check_forward, lambda *a: tuple(list(part) for part in forward(*a))),
        (checks.check_forward, with_grad(forward)),
        (checks.check_loss, lambda *a: np.float32(loss(*a))),
        (checks.check_loss, lambda *a: loss(*a).item()),
        (checks.check_loss, lambda *a: loss(*a).numpy()),
        (checks.check_loss, lambda *a: [loss(*a)]),
        (checks.check_loss, lambda *a: loss(*a).reshape(1, 1)),
        (checks.check_loss, with_grad(loss)),
        (checks.check_cosine, lambda *a: list(cosine(*a))),
        (checks.check_cosine, lambda *a: tuple(row.numpy() for row in cosine(*a))),
        (checks.check_cosine, lambda *a: cosine(*a).tolist()),
        (checks.check_cosine, lambda *a: [[entry for entry in row] for row in cosine(*a)]),
        (checks.check_cosine, with_grad(lambda *a: list(cosine(*a)))),
        (checks.check_cosine, lambda *a: cosine(*a).double().numpy()[::-1].copy()[::-1]),
        (checks.check_matching, brute_force),  # a tuple of ints
        (checks.check_matching, lambda c: tuple(np.array(matching(c)))),
        (checks.check_matching, lambda c: [torch.tensor(latent) for latent in matching(c)]),
        (checks.check_matching, lambda c: np.array(matching(c), dtype=object)),
        (checks.check_matching, lambda c: (int(latent) for latent in matching(c))),
        (checks.check_matching, lambda c: torch.tensor(matching(c), dtype=torch.float16)),
        (checks.check_renorm, lambda sae, *a: (train_step(sae, *a), sae)),
    ],
)
def test_right_answers_of_another_form_pass(check, answer, capsys):
    assert verdict(capsys, check, answer).endswith(": correct.\n")


def written_in(**constants):
    """The right answer to exercise 2, but for numbers that it should have taken from the inputs."""

    def answer(x, x_hat, h, l1_coefficient):
        n, d, s = constants.get("n", len(x)), constants.get("d", 1), constants.get("s", 1)
        error = (x - x_hat).square().sum() / n / (x.shape[1] / d if "d" in constants else 1)
        l1 = h.sum() / n / (h.shape[1] / s if "s" in constants else 1)
        return error + constants.get("l1_coefficient", l1_coefficient) * l1

    return answer


SIZES = [dict(zip(("n", "d", "s", "l1_coefficient"), case, strict=True)) for case in checks.SIZES]


@pytest.mark.parametrize(
    "constants", [{name: case[name]} for case in SIZES for name in case], ids=lambda c: f"{c}"
)
def test_a_number_written_into_the_loss_is_found(constants, capsys):
    assert verdict(capsys, checks.check_loss, written_in()) == "loss: correct.\n"
    text = verdict(capsys, checks.check_loss, written_in(**constants))
    assert text.startswith("loss: not yet. ")
    if constants.items() <= SIZES[0].items():
        assert "Right on one input, wrong on another (is a number written into it?)" in text


@pytest.mark.parametrize("l1_coefficient", [case["l1_coefficient"] for case in SIZES])
def test_a_number_written_into_the_step_is_found(l1_coefficient, capsys):
    text = verdict(capsys, checks.check_renorm, lambda *a: train_step(*a[:3], l1_coefficient))
    assert text.startswith("renormalisation: not yet. ")


@pytest.mark.parametrize(
    "cost",
    [
        torch.arccos,
        lambda c: (1 - c).square(),
        lambda c: (2 - 2 * c).sqrt(),
        lambda c: torch.exp(-c),
        lambda c: -torch.exp(c),
        lambda c: -torch.atanh(c),
        lambda c: -(c**3),
        lambda c: -c.square(),
        lambda c: -c.relu(),
        lambda c: -c.softmax(dim=0),
        lambda c: -c.softmax(dim=1),
        lambda c: -c.round(decimals=1),
    ],
)
def test_a_total_of_something_else_than_cosines_is_found(cost, capsys):
    text = verdict(capsys, checks.check_matching, lambda c: linear_sum_assignment(cost(c).T)[1])
    assert text.startswith("matching: not yet. ")
    assert ("the angles were added up" in text) == (cost is torch.arccos)


def test_each_matrix_of_the_matching_has_one_best_assignment_by_a_margin():
    for n_latents, n_features, seed in checks.MATCHING.cases:
        matrices = []
        checks.MATCHING.run(matrices.append, n_latents, n_features, seed)
        cosines = matrices[0].double()
        features = range(n_features)
        totals = [
            cosines[list(pick), features].sum().item()
            for pick in itertools.permutations(range(n_latents), n_features)
        ]
        second, best = sorted(totals)[-2:]
        assert best - second > 0.02
        assert cosines.abs().max() < 1


# --- whatever the notebook's code becomes, the marks stay ---------------------------------

ORIGINALS = {
    kind.__name__: kind
    for kind in (
        SparseAutoencoder,
        sae_loss,
        cosine_similarity_matrix,
        match_features,
        training.train_sae,
    )
}
EDITS = {  # name: {what a learner takes out of the shown code: what is put there instead}
    "SparseAutoencoder": {
        "torch.relu(x @ self.W_enc + self.b_enc)": "x @ self.W_enc + self.b_enc",
        "self.W_dec.norm(dim=-1": "self.W_dec.norm(dim=0",
    },
    "sae_loss": {"sum(dim=-1)": "mean(dim=-1)"},
    "cosine_similarity_matrix": {"return ": "return -"},
    "match_features": {"maximize=True": "maximize=False"},
    "train_sae": {"log, to_log = ": "raise RuntimeError('the edited loop ran')  # "},
}


@pytest.fixture
def edited(monkeypatch):
    """Edit shown code and put it into the library, as the notebook does; afterwards undo it."""

    def edit(*names) -> dict:
        notebook = {}
        for name in names:
            source = inspect.getsource(ORIGINALS[name])
            for old, new in EDITS[name].items():
                assert old in source
                source = source.replace(old, new)
            exec(source, vars(sys.modules[ORIGINALS[name].__module__]) | notebook, notebook)
            use(notebook[name])
            if name in globals():  # this file's answers were written in that notebook
                monkeypatch.setitem(globals(), name, notebook[name])
        return notebook

    yield edit
    use(*ORIGINALS.values())
    assert sae_module.TopKSparseAutoencoder.__bases__ == (ORIGINALS["SparseAutoencoder"],)
    assert checks.train_sae is ORIGINALS["train_sae"] and checks.sae_loss is ORIGINALS["sae_loss"]


def step_with_own_loss(sae, optimizer, x, l1_coefficient):
    optimizer.zero_grad()
    loss(x, *sae(x), l1_coefficient).backward()
    optimizer.step()
    sae.W_dec.data /= sae.W_dec.data.norm(dim=1, keepdim=True)


def step_with_method(sae, optimizer, x, l1_coefficient):
    optimizer.zero_grad()
    sae.loss(x, l1_coefficient).total.backward()
    optimizer.step()
    sae.normalize_decoder_()


def test_no_edit_changes_a_mark(edited, capsys):
    answers = [(check, right) for check, _, right, _ in EXERCISES]
    answers += [(checks.check_renorm, step) for step in (step_with_own_loss, step_with_method)]
    n_right = len(answers)
    answers += [(check, m) for check, e, *_ in EXERCISES for _, m in e.mistakes[:14]]
    before = [verdict(capsys, check, answer) for check, answer in answers]
    assert all(text.endswith(": correct.\n") for text in before[:n_right])
    assert all(": not yet. It looks as if " in text for text in before[n_right:])
    notebook = edited("SparseAutoencoder", "sae_loss", "cosine_similarity_matrix", "match_features")
    assert sae_module.sae_loss is sae_loss is notebook["sae_loss"]
    assert [verdict(capsys, check, answer) for check, answer in answers] == before
    for said, answer in (
        ("not normalised", step_unnormalised),
        ("before optimizer.step()", step_after_normalising),
        ("new parameter", step_with_new_parameter),
    ):
        assert said in verdict(capsys, checks.check_renorm, answer)
    text = verdict(capsys, checks.check_loss, lambda *a: sae_loss(*a).total)
    assert "both terms were averaged over everything" in text


def test_a_loss_that_raises_is_no_right_answer(edited, capsys, monkeypatch):
    def raising(x, x_hat, latent_acts, l1_coefficient):
        raise ValueError("half an edit")

    raising.__name__ = "sae_loss"
    use(raising)
    monkeypatch.setitem(globals(), "sae_loss", raising)
    assert "It raised ValueError: half an edit" in verdict(capsys, checks.check_renorm, train_step)
    assert verdict(capsys, checks.check_renorm, step_with_own_loss).endswith(": correct.\n")


def test_the_training_of_exercises_6_and_7_is_the_edited_one(edited, capsys):
    edited("train_sae")
    text = verdict(capsys, checks.check_lambda, 0.15)
    assert text == (
        "choosing λ: not yet. The training broke down at λ = 0.15. "
        "It raised RuntimeError: the edited loop ran\n"
    )
    with pytest.raises(RuntimeError, match="the edited loop ran"):
        checks.broken_runs()


def test_the_class_of_exercises_6_and_7_is_the_edited_one(edited, capsys, monkeypatch):
    seen = []

    def train_sae(sae, activations, **settings):
        seen.append(sae)
        return training.train_sae(sae, activations, **settings | {"n_steps": 2})

    monkeypatch.setattr(checks, "train_sae", train_sae)
    shown = edited("SparseAutoencoder")["SparseAutoencoder"]
    checks.check_lambda(0.15)
    checks.broken_runs()
    assert [shown in type(sae).__mro__ for sae in seen] == [True] * 5
    assert sum(type(sae) is not shown for sae in seen) == 1  # the one with the wrong axis


# --- mistakes written out in full, to see that each gets its own sentence -----------------


def pair_swapped(x, W_enc, b_enc, W_dec, b_dec):
    return forward(x, W_enc, b_enc, W_dec, b_dec)[::-1]


def linear_layers(x, W_enc, b_enc, W_dec, b_dec):
    h = nn.functional.relu(nn.functional.linear(x, W_enc, b_enc))
    return nn.functional.linear(h, W_dec, b_dec), h


def fivefold(x, x_hat, latent_acts, l1_coefficient):
    return ((x - x_hat) ** 2).mean(dim=1).mean() + l1_coefficient * latent_acts.sum(1).mean()


def all_means(x, x_hat, latent_acts, l1_coefficient):
    return nn.functional.mse_loss(x_hat, x) + l1_coefficient * latent_acts.mean()


def step_after_normalising(sae, optimizer, x, l1_coefficient):
    sae.normalize_decoder_()
    x_hat, latent_acts = sae(x)
    optimizer.zero_grad()
    sae_loss(x, x_hat, latent_acts, l1_coefficient).total.backward()
    optimizer.step()


def step_unnormalised(sae, optimizer, x, l1_coefficient):
    optimizer.zero_grad()
    sae_loss(x, *sae(x), l1_coefficient).total.backward()
    optimizer.step()


def step_normalising_before_backward(sae, optimizer, x, l1_coefficient):
    total = sae_loss(x, *sae(x), l1_coefficient).total
    optimizer.zero_grad()
    with torch.no_grad():
        sae.W_dec /= sae.W_dec.norm(dim=-1, keepdim=True)
    total.backward()
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
            "Return x_hat and latent_acts; the number of results was 1",
        ),
        (checks.check_forward, lambda *a: (forward(*a)[0][:, :3], forward(*a)[1]), "shape (6, 5)"),
        (
            checks.check_forward,
            lambda *a: (forward(*a)[0] + 0.5, forward(*a)[1]),
            "30 of 30 numbers",
        ),
        (checks.check_forward, lambda x, *a: forward(x[:6], *a), "must have shape (11, 3) here"),
        (
            checks.check_forward,
            lambda *a: forward(*a) if len(a[0]) > 1 else None,
            "a return missing",
        ),
        (checks.check_loss, fivefold, "fivefold"),
        (checks.check_loss, all_means, "both terms were averaged"),
        (checks.check_loss, lambda *a: loss(*a) + 1, "the total: 11.33 where 10.33 is right"),
        (checks.check_loss, lambda x, *a: (x - a[0]).square(), "must have shape ()"),
        (checks.check_loss, sae_loss, "must have shape () here, but has (3,)"),
        (checks.check_loss, lambda *a: "ten", "What it returns (a str) cannot be read as numbers"),
        (checks.check_renorm, step_after_normalising, "before optimizer.step()"),
        (checks.check_renorm, step_normalising_before_backward, "before optimizer.step()"),
        (checks.check_renorm, step_without_no_grad, "torch.no_grad()"),
        (checks.check_renorm, step_with_new_tensor, "plain tensor"),
        (checks.check_renorm, step_with_new_parameter, "new parameter"),
        (checks.check_cosine, lambda a, b: cosine(b, a), "transposed"),
        (checks.check_cosine, lambda a, b: a @ b.T / a.norm(dim=1)[:, None], "only the decoder"),
        (checks.check_cosine, lambda a, b: cosine(a, b) * 0, "48 of 48 numbers are off"),
        (checks.check_matching, rows_of_scipy, "rising order"),
        (checks.check_matching, columns_of_scipy, "the reverse is wanted"),
        (checks.check_matching, first_come, "each pick was the best one left"),
        (checks.check_matching, match_features, "must have shape (6,) here, but has (2, 6)"),
        (
            checks.check_matching,
            lambda c: linear_sum_assignment(c, maximize=True),
            "both of linear_sum_assignment's results",
        ),
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


@pytest.fixture(scope="module")
def at_three_prices():
    """What check_lambda trains, at three λ and for a third of its steps: {λ: weights}."""
    prices = [0.01, 0.15, 0.5]
    saes = [SparseAutoencoder(5, 32) for _ in prices]
    training.train_saes(saes, checks._mystery()[1], l1_coefficient=prices, n_steps=1_000)
    return {price: sae.state_dict() for price, sae in zip(prices, saes, strict=True)}


@pytest.fixture
def trained_already(at_three_prices, monkeypatch):
    def train_sae(sae, activations, *, l1_coefficient, n_steps):
        assert activations.equal(checks._mystery()[1]) and n_steps == 3_000
        for name, weight in at_three_prices[round(l1_coefficient, 3)].items():
            sae.get_parameter(name).data = weight

    monkeypatch.setattr(checks, "train_sae", train_sae)


@pytest.mark.parametrize(
    ("l1_coefficient", "said"),
    [
        (0.01, "choosing λ: not yet. λ = 0.01 recovers 0 of the 16 hidden features, with 0.0%"),
        (0.15, "choosing λ: correct. λ = 0.15 recovers 16 of the 16"),
        (0.5, "Too large: weak features are cut off"),
        ("0.15", "choosing λ: correct. "),
        (np.float32(0.15), "choosing λ: correct. λ = 0.15 "),
        (torch.tensor(0.15), "choosing λ: correct. λ = 0.15 "),
    ],
)
def test_lambda_is_judged_by_the_features_it_finds(trained_already, l1_coefficient, said, capsys):
    text = verdict(capsys, checks.check_lambda, l1_coefficient)
    assert said in text
    assert ("Too small" in text) == (l1_coefficient == 0.01)


def test_the_whole_of_check_lambda(capsys):
    text = verdict(capsys, checks.check_lambda, 0.15)
    assert "correct. λ = 0.15 recovers 16 of the 16 hidden features, with 7.3% of the" in text


@pytest.mark.parametrize(
    "l1_coefficient", [-1.0, math.nan, math.inf, "0,1", "", [0.1], {}, 1j, torch.ones(2), 10**400]
)
def test_a_lambda_that_is_no_lambda_gets_a_sentence(l1_coefficient, capsys):
    text = verdict(capsys, checks.check_lambda, l1_coefficient)
    assert text.startswith("choosing λ: not yet. my_l1_coefficient must be a number from 0 up")
    assert text.count("\n") == 1 and len(text) < 200


def test_no_edit_of_cosine_or_matching_changes_what_counts_as_recovered(
    trained_already, edited, capsys
):
    edited("cosine_similarity_matrix", "match_features")
    assert "λ = 0.15 recovers 16 of the 16" in verdict(capsys, checks.check_lambda, 0.15)


def test_the_mystery_is_what_it_says_and_a_copy():
    directions, x = checks._mystery()
    cosines = cosine_similarity_matrix(directions, directions) - 2 * torch.eye(16)
    assert cosines.max().item() == pytest.approx(0.2, abs=1e-5)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(16))
    checks.mystery_activations().zero_()
    assert checks.mystery_activations().equal(x) and x.abs().max() > 0.5


# --- finding the bug ----------------------------------------------------------------------


@pytest.mark.parametrize("diagnosis", [dict.fromkeys("ABCD"), {}, None, ..., []])
def test_the_diagnosis_starts_as_not_attempted(diagnosis, capsys):
    text = verdict(capsys, checks.check_diagnosis, diagnosis)
    assert text == "finding the bug: not attempted yet.\n"


@pytest.mark.parametrize("form", [int, str, float, np.int64, torch.tensor, " {} ".format])
def test_the_right_diagnosis_passes(form, capsys):
    said = "finding the bug: correct. All four runs are told apart.\n"
    right = {"A": form(3), "B": form(1), "C": form(4), "D": form(2)}
    for diagnosis in (right, [*right.values()], {run.lower(): n for run, n in right.items()}):
        assert verdict(capsys, checks.check_diagnosis, diagnosis) == said


@pytest.mark.parametrize("diagnosis", ["3142", 3, {"E": 1}, {3: "A"}, torch.ones(4)])
def test_what_is_no_diagnosis_is_an_attempt(diagnosis, capsys):
    text = verdict(capsys, checks.check_diagnosis, diagnosis)
    assert text.startswith("finding the bug: not yet. Give each run the number of its fault")


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
    assert last["C"]["norm"] < 0.4  # the wrong axis
    assert last["D"]["error"] < 0.1 * last["healthy"]["error"]  # λ too small
    assert last["D"]["l0"] > 1.5 * last["healthy"]["l0"]
    for name in ("healthy", "B", "D"):
        np.testing.assert_allclose(runs[name]["norm"], 1, rtol=1e-5)


def test_a_healthy_run_of_this_length_would_have_found_the_features():
    directions, x = checks._mystery()
    sae = SparseAutoencoder(5, 32)
    checks.train_sae(sae, x, l1_coefficient=0.15, n_steps=800)
    assert match_features(cosine_similarity_matrix(sae.W_dec, directions)).cosine.min() > 0.99

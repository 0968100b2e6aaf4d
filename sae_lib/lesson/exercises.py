"""Marks for the exercises: run the learner's answer, name the mistake, never raise.

Each `check_…` prints one verdict, and keeps the best one for `progress()`. An answer is run on
several small inputs and compared with the right one, then with the likely mistakes, each of
which is written out as a function beside the sentence that corrects it.

The right answers are written out here too, so that no edit of the code that the notebook shows
changes a mark. The trainings of exercises 6 and 7 run the code as it is when they are called.
"""

import dis
import functools
import inspect
import itertools
import math
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from sae_lib.metrics import fvu
from sae_lib.sae import SparseAutoencoder, sae_loss
from sae_lib.training import train_sae

NAMES = (
    "forward pass",
    "loss",
    "renormalisation",
    "cosine matrix",
    "matching",
    "choosing λ",
    "finding the bug",
)
NOT_ATTEMPTED, TRIED, PASSED = LEVELS = ("not attempted yet", "tried", "passed")
_status = dict.fromkeys(NAMES, NOT_ATTEMPTED)


def progress() -> None:
    """Print how many exercises are passed, tried and not attempted yet."""
    n = {level: list(_status.values()).count(level) for level in LEVELS}
    print(
        f"Exercises: {n[PASSED]} of {len(NAMES)} passed, {n[TRIED]} tried, "
        f"{n[NOT_ATTEMPTED]} not attempted yet."
    )


def _report(name: str, level: str, text: str = "") -> None:
    """Print this verdict; what was reached before stays reached."""
    _status[name] = max(_status[name], level, key=LEVELS.index)
    verdict = {PASSED: "correct.", TRIED: "not yet.", NOT_ATTEMPTED: "not attempted yet."}[level]
    print(f"{name}: {verdict} {text}".rstrip())


def _blank(answer: Any) -> bool:
    return answer is None or answer is ...


def _raised(error: BaseException) -> str:
    """An exception as one sentence."""
    return f"It raised {traceback.format_exception_only(error)[0].splitlines()[0][:200]}"


# --- the first five: functions, compared with the right one and with the likely mistakes ---


class _Exercise(NamedTuple):
    name: str
    parts: tuple[str, ...]  # names of what an answer gives
    cases: tuple[tuple, ...]  # the inputs, as what `run` makes them from
    run: Callable  # run(answer, *case) calls an answer on one of the inputs
    right: tuple[Callable, ...]
    mistakes: list[tuple[str, Callable]]
    nothing: str = "The function returns None: is a return missing?"


def _table(*hints_and_answers: str | Callable) -> list[tuple[str, Callable]]:
    """Pairs of "It looks as if …" and the wrong answer that it is said of."""
    return list(zip(hints_and_answers[::2], hints_and_answers[1::2], strict=True))


def _numbers(value: Any) -> torch.Tensor:
    """A tensor, an array, a number, or a list of such, as a tensor of doubles."""
    if isinstance(value, (list, tuple, Iterator)):
        return torch.stack([_numbers(entry) for entry in value])
    if not isinstance(value, torch.Tensor):
        value = torch.from_numpy(np.array(value, dtype=float))
    return value.detach().cpu().double()


def _outcome(exercise: _Exercise, answer: Callable, case: tuple) -> list[torch.Tensor] | str | None:
    """What an answer gives on one input: its parts, None, or a sentence on why there are none."""
    try:
        value = exercise.run(answer, *case)
    except NotImplementedError as error:
        return _raised(error) if error.args else NOT_ATTEMPTED
    except (Exception, SystemExit) as error:
        return _raised(error)
    if _blank(value):
        return None
    is_split = len(exercise.parts) > 1 and isinstance(value, (list, tuple))
    try:
        parts = [_numbers(part) for part in (value if is_split else [value])]
    except Exception:
        return f"What it returns (a {type(value).__name__}) cannot be read as numbers."
    return [part.reshape(()) if part.numel() == 1 else part for part in parts]


def _same(a: list[torch.Tensor] | str | None, b: list[torch.Tensor] | str | None) -> bool:
    if not isinstance(a, list) or not isinstance(b, list):
        return a == b
    return len(a) == len(b) and all(
        x.shape == y.shape and torch.allclose(x, y, rtol=1e-4, atol=1e-5)
        for x, y in zip(a, b, strict=True)
    )


def _is(exercise: _Exercise, got: list, answer: Callable) -> bool:
    """Whether `got` is what this answer gives; asked input by input, until one says no."""
    cases = zip(got, exercise.cases, strict=True)
    return all(_same(parts, _outcome(exercise, answer, case)) for parts, case in cases)


def _difference(exercise: _Exercise, got: list[torch.Tensor], wanted: list[torch.Tensor]) -> str:
    """One sentence on the first part that is not as it should be."""
    if len(got) != len(wanted):
        return f"Return {' and '.join(exercise.parts)}; the number of results was {len(got)}."
    for name, x, y in zip(exercise.parts, got, wanted, strict=True):
        if x.shape != y.shape:
            return f"{name} must have shape {tuple(y.shape)} here, but has {tuple(x.shape)}."
        wrong = ~torch.isclose(x, y, rtol=1e-4, atol=1e-5)
        if wrong.any():
            count = f"{int(wrong.sum())} of {y.numel()} numbers are off, such as "
            example = f"{x[wrong][0]:.4g} where {y[wrong][0]:.4g} is right."
            return f"{name}: {count if y.numel() > 1 else ''}{example}"
    return ""


def _is_stub(answer: Callable) -> bool:
    """Whether the function's body is still `...`, `pass`, or a docstring alone."""
    try:
        steps = {step.opname for step in dis.get_instructions(inspect.unwrap(answer))}
    except TypeError:  # not a Python function
        return False
    return steps <= {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}


def _judge(exercise: _Exercise, answer: Any) -> tuple[str, str]:
    """Passed, tried or not attempted; and a sentence on why."""
    if _blank(answer):
        return NOT_ATTEMPTED, ""
    if not callable(answer):
        return TRIED, f"Give the check your function; a {type(answer).__name__} came."
    got = [_outcome(exercise, answer, case) for case in exercise.cases]
    if NOT_ATTEMPTED in got or (None in got and _is_stub(answer)):
        return NOT_ATTEMPTED, ""
    if None in got:
        return TRIED, exercise.nothing
    if any(_is(exercise, got, right) for right in exercise.right):
        return (TRIED, got[0]) if isinstance(got[0], str) else (PASSED, "")
    for hint, mistake in exercise.mistakes:
        if _is(exercise, got, mistake):
            return TRIED, f"It looks as if {hint}"
    for i, case in enumerate(exercise.cases):
        wanted = _outcome(exercise, exercise.right[0], case)
        if not _same(got[i], wanted):
            break
    text = got[i] if isinstance(got[i], str) else _difference(exercise, got[i], wanted)
    if i > 0:
        text = f"Right on one input, wrong on another (is a number written into it?). {text}"
    return TRIED, text


def _mark(exercise: _Exercise, answer: Any) -> None:
    _report(exercise.name, *_judge(exercise, answer))


# batch, d_in, d_sae, λ: small, and no two inputs alike in any of them
SIZES = ((6, 5, 8, 0.3), (1, 4, 9, 2.0), (11, 3, 7, 0.05))

relu = torch.relu


def _rows(a: torch.Tensor, dim: int = 1) -> torch.Tensor:
    return a / a.norm(dim=dim, keepdim=True)


def _randn(*shapes: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _decode(h, Wd, bd):
    return h @ Wd + bd, h


def _forward(x, We, be, Wd, bd):
    return _decode(relu(x @ We + be), Wd, bd)


FORWARD = _Exercise(
    "forward pass",
    ("x_hat", "latent_acts"),
    SIZES,
    lambda answer, n, d, s, scale: answer(
        *(t / scale for t in _randn((n, d))), *_randn((d, s), (s,), (s, d), (d,), seed=1)
    ),
    (_forward,),
    _table(
        "the ReLU is missing: latent_acts must never be negative.",
        lambda x, We, be, Wd, bd: _decode(x @ We + be, Wd, bd),
        "the ReLU came before the bias: the ReLU must see x W_enc + b_enc.",
        lambda x, We, be, Wd, bd: _decode(relu(x @ We) + be, Wd, bd),
        "b_enc was forgotten: it is added before the ReLU.",
        lambda x, We, be, Wd, bd: _decode(relu(x @ We), Wd, bd),
        "b_dec was forgotten: it is added after the decoder.",
        lambda x, We, be, Wd, bd: _decode(relu(x @ We + be), Wd, 0),
        "b_dec was subtracted from x first. Some papers do so; this lesson does not.",
        lambda x, We, be, Wd, bd: _decode(relu((x - bd) @ We + be), Wd, bd),
        "b_dec was added to x: it belongs after the decoder.",
        lambda x, We, be, Wd, bd: _decode(relu((x + bd) @ We + be), Wd, 0),
        "x_hat went through a ReLU too: activations can be negative, so x_hat must be able to.",
        lambda *weights: (relu(_forward(*weights)[0]), _forward(*weights)[1]),
        "the two results are swapped: return x_hat first, then latent_acts.",
        lambda *weights: _forward(*weights)[::-1],
        "W_enc was transposed: it is (d_in, d_sae), so x @ W_enc fits as it is.",
        lambda x, We, be, Wd, bd: x @ We.T,
        "W_dec was transposed: it is (d_sae, d_in), so h @ W_dec fits as it is.",
        lambda x, We, be, Wd, bd: relu(x @ We + be) @ Wd.T,
    ),
)


def _run_loss(answer: Callable, n: int, d: int, s: int, l1_coefficient: float) -> Any:
    x, x_hat, h = _randn((n, d), (n, d), (n, s))
    return answer(x, x_hat, relu(h), l1_coefficient)


def _error(x, y):
    return (y - x).square().sum(dim=1).mean()


def _total(x, y, h, c):
    return _error(x, y) + c * h.abs().sum(dim=1).mean()


LOSS = _Exercise(
    "loss",
    ("the total",),
    SIZES,
    _run_loss,
    (_total,),
    _table(
        "the squared error was averaged over the coordinates, the fivefold trap: sum over them, "
        "then average over the batch.",
        lambda x, y, h, c: _total(x, y, h, c) - _error(x, y) + (y - x).square().mean(),
        "the L1 was averaged over the latents: sum over them, then average over the batch.",
        lambda x, y, h, c: _error(x, y) + c * h.mean(),
        "both terms were averaged over everything: sum over the last axis, average over the batch.",
        lambda x, y, h, c: (y - x).square().mean() + c * h.mean(),
        "the batch was summed: average over it, or the loss grows with the batch.",
        lambda x, y, h, c: len(x) * _total(x, y, h, c),
        "the squared error was summed over the batch: average over it, as the L1 does.",
        lambda x, y, h, c: _total(x, y, h, c) + (len(x) - 1) * _error(x, y),
        "the L1 was summed over the batch: average over it, as the squared error does.",
        lambda x, y, h, c: _total(x, y, h, len(x) * c),
        "λ was forgotten: multiply the L1 by it.",
        lambda x, y, h, c: _total(x, y, h, 1),
        "the L1 penalty was forgotten.",
        lambda x, y, h, c: _error(x, y),
        "λ multiplies both terms: it belongs to the L1 only.",
        lambda x, y, h, c: c * _total(x, y, h, 1),
        "the error was not squared.",
        lambda x, y, h, c: (y - x).abs().sum(dim=1).mean() + _total(x, x, h, c),
        "a root was taken: the error is the squared distance.",
        lambda x, y, h, c: (y - x).norm(dim=1).mean() + _total(x, x, h, c),
        "the penalty is on x_hat: it belongs on latent_acts.",
        lambda x, y, h, c: _total(x, y, y, c),
        "the activations were squared, an L2 penalty: that makes them small, not few.",
        lambda x, y, h, c: _total(x, y, h.square(), c),
        "the active latents were counted, which is L0 and has no gradient: add up their sizes.",
        lambda x, y, h, c: _total(x, y, (h > 0).float(), c),
        "the penalty was subtracted: add it.",
        lambda x, y, h, c: _total(x, y, h, -c),
    ),
)


_SAE = SparseAutoencoder  # the library's own, whatever the notebook makes of that name later


def _run_steps(step: Callable, n: int, d: int, s: int, c: float) -> tuple | None:
    """The weights after three steps, from a decoder that is not of length 1; None if untouched."""
    sae = _SAE(d, s)
    *batches, start = _randn((n, d), (n, d), (n, d), (s, d))
    sae.W_dec.data = start.clone()
    held = sae.W_dec
    optimizer = torch.optim.SGD(sae.parameters(), lr=0.02)
    for x in batches:
        step(sae, optimizer, x, c)
    if held.grad is None and torch.equal(sae.W_dec, start):
        return None
    return sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, held


def _price(sae, x, c):
    """The loss written out above, or the one that the library has now: see `_live`."""
    return sae_loss(x, *sae(x), c).total if hasattr(sae, "is_live") else _total(x, *sae(x), c)


def _updated(sae, optimizer, x, c, *, zero=True, step=True):
    """A training step without its last line, the normalisation."""
    if zero:
        optimizer.zero_grad()
    _price(sae, x, c).backward()
    if step:
        optimizer.step()
    return sae


def _live(step: Callable) -> Callable:
    """The same step with the `sae_loss` that the notebook has now, which may have been edited."""

    def live_step(sae, *a):
        sae.is_live = True
        step(sae, *a)

    return live_step


@torch.no_grad()
def _divided(weight: torch.Tensor, dim: int | tuple[int, int]) -> None:
    weight /= weight.norm(dim=dim, keepdim=True)


def _right_step(*a):
    _updated(*a).normalize_decoder_()


def _replaced(*a):
    sae = _updated(*a)
    sae.W_dec = nn.Parameter(_rows(sae.W_dec.detach()))


BEFORE = (
    "the decoder was normalised before optimizer.step(), which moves the norms off 1 again: "
    "normalise after it."
)
WRONG_STEPS = _table(
    BEFORE,
    lambda sae, *a: (sae.normalize_decoder_(), _updated(sae, *a)),
    BEFORE,
    lambda s, opt, *a: (_updated(s, opt, *a, step=False).normalize_decoder_(), opt.step()),
    BEFORE,
    lambda sae, opt, *a: (_price(sae, *a), sae.normalize_decoder_())[0].backward(),
    "the decoder was not normalised: the last line of the step is missing.",
    _updated,
    "the columns were normalised: the directions are the rows, so take norm(dim=-1).",
    lambda *a: _divided(_updated(*a).W_dec, dim=0),
    "the whole matrix was divided by one number: each row needs its own norm(dim=-1).",
    lambda *a: _divided(_updated(*a).W_dec, dim=(0, 1)),
    "the encoder was normalised: the rule is for the rows of W_dec.",
    lambda *a: _divided(_updated(*a).W_enc, dim=0),
    "optimizer.zero_grad() is missing: the gradients of earlier steps add up.",
    lambda *a: _updated(*a, zero=False).normalize_decoder_(),
    "the weights never moved: loss.backward() or optimizer.step() is missing.",
    lambda sae, *a: sae.normalize_decoder_(),
    "the L1 penalty was left out: give sae_loss the l1_coefficient.",
    lambda sae, opt, x, c: _updated(sae, opt, x, 0.0).normalize_decoder_(),
    "W_dec was replaced by a new parameter: the optimizer holds the old one, so change it in "
    "place.",
    _replaced,
    "W_dec was replaced by a plain tensor: change the parameter in place.",
    lambda sae, *a: setattr(sae, "W_dec", torch.zeros(1)),
    "autograd watched the normalisation: put it under `with torch.no_grad():`.",
    lambda sae, *a: sae.W_dec.div_(1.0),
)
RENORM = _Exercise(
    "renormalisation",
    ("W_enc", "b_enc", "W_dec", "b_dec", "the W_dec that the optimizer holds"),
    SIZES,
    _run_steps,
    (_right_step, _live(_right_step)),
    WRONG_STEPS + [(hint, _live(step)) for hint, step in WRONG_STEPS],
    "The step changed nothing: no gradient, no new weights.",
)


COSINE = _Exercise(
    "cosine matrix",
    ("the matrix",),
    SIZES,
    lambda answer, n, d, s, _: answer(*_randn((s, d), (n, d))),
    (lambda a, b: _rows(a) @ _rows(b).T,),
    _table(
        "nothing was normalised: these are dot products. Divide by both lengths.",
        lambda a, b: a @ b.T,
        "the columns were normalised: a direction is a row, so take norm(dim=1).",
        lambda a, b: _rows(a, 0) @ _rows(b, 0).T,
        "norm() was taken of the whole matrix: each row needs its own, norm(dim=1).",
        lambda a, b: a @ b.T / a.norm() / b.norm(),
        "the result is transposed: latents are the rows, features the columns.",
        lambda a, b: _rows(b) @ _rows(a).T,
        "the sign was dropped: a direction and its opposite are different features here.",
        lambda a, b: (_rows(a) @ _rows(b).T).abs(),
        "only the decoder was normalised: the features need it too.",
        lambda a, b: _rows(a) @ b.T,
        "only the features were normalised: the decoder needs it too.",
        lambda a, b: a @ _rows(b).T,
        "the second factor was not transposed: (d_sae, d_in) @ (d_in, n_features) fits.",
        lambda a, b: a @ b,
    ),
)


def _assigned(cosines: torch.Tensor) -> np.ndarray:
    """For each feature its latent; the cosines add up to the most."""
    return linear_sum_assignment(cosines.T, maximize=True)[1]


def _greedy(c: torch.Tensor) -> list[int]:
    """The features take turns, each with the best latent still free."""
    c, taken = c.clone(), []
    for feature in range(c.shape[1]):
        taken.append(int(c[:, feature].argmax()))
        c[taken[-1]] = -torch.inf
    return taken


def _greedy_from_the_top(c: torch.Tensor) -> list[int]:
    """The largest cosine first, then the largest that is left, and so on."""
    c, taken = c.clone(), [0] * c.shape[1]
    for _ in taken:
        latent, feature = divmod(int(c.argmax()), len(taken))
        taken[feature] = latent
        c[latent], c[:, feature] = -torch.inf, -torch.inf
    return taken


GREEDY = (
    "each pick was the best one left: a pick may cost a later one more than it gains. Maximise "
    "the total, with linear_sum_assignment."
)
MATCHING = _Exercise(
    "matching",
    ("the latents",),
    ((8, 6, 2522), (6, 6, 3745), (7, 5, 869)),  # angles, squares, … have another best matching here
    lambda answer, s, n, seed: answer(torch.tanh(_randn((s, n), seed=seed)[0])),
    (_assigned,),
    _table(
        "this is the argmax of each column: one latent may then serve two features.",
        lambda c: c.argmax(dim=0),
        "this is the argmax of each row: a latent for each feature is wanted, not the reverse.",
        lambda c: c.argmax(dim=1),
        "the total was minimised: linear_sum_assignment needs maximize=True.",
        lambda c: _assigned(-c),
        "|cosine| was matched: then the opposite of a feature counts as found.",
        lambda c: _assigned(c.abs()),
        "the angles were added up: it is the total of the cosines that counts.",
        lambda c: _assigned(-c.arccos()),
        "these are the right latents in rising order: put them in the order of the features.",
        lambda c: np.sort(_assigned(c)),
        "these are features, in the order of their latents: the reverse is wanted.",
        lambda c: np.argsort(_assigned(c)),
        "both of linear_sum_assignment's results came: the latents alone are wanted.",
        lambda c: linear_sum_assignment(c, maximize=True),
        GREEDY,
        _greedy,
        GREEDY,
        _greedy_from_the_top,
    ),
)


def check_forward(answer: Callable) -> None:
    """answer(x, W_enc, b_enc, W_dec, b_dec) -> (x_hat, latent_acts)"""
    _mark(FORWARD, answer)


def check_loss(answer: Callable) -> None:
    """answer(x, x_hat, latent_acts, l1_coefficient) -> total"""
    _mark(LOSS, answer)


def check_renorm(answer: Callable) -> None:
    """answer(sae, optimizer, x, l1_coefficient) takes one training step in place."""
    _mark(RENORM, answer)


def check_cosine(answer: Callable) -> None:
    """answer(W_dec, feature_directions) -> (d_sae, n_features)"""
    _mark(COSINE, answer)


def check_matching(answer: Callable) -> None:
    """answer(cosines) -> for each feature its latent, (n_features,)"""
    _mark(MATCHING, answer)


# --- choosing λ, and finding the bug: a problem whose truth stays hidden ---------------------


@functools.cache
def _mystery() -> tuple[torch.Tensor, torch.Tensor]:
    """Directions (16, 5) and activations (20_000, 5).

    The 16 corners of the five-dimensional cube with an even number of minus signs: no two are
    closer than cosine 0.2, the least possible. Turned at random, so that no axis gives it away.
    """
    generator = torch.Generator().manual_seed(7)
    corners = [c for c in itertools.product((-1.0, 1.0), repeat=5) if np.prod(c) > 0]
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    directions = torch.tensor(corners) / 5**0.5 @ rotation
    is_on = torch.rand(20_000, 16, generator=generator) < 0.03
    return directions, torch.rand(20_000, 16, generator=generator) * is_on @ directions


def mystery_activations() -> torch.Tensor:
    """Activations (20_000, 5) that hold some number of features, each rarely on."""
    return _mystery()[1].clone()


def check_lambda(l1_coefficient: float | None) -> None:
    """Train an SAE on the mystery at this λ, and only then look at the truth."""
    _report("choosing λ", *_judge_lambda(l1_coefficient))


def _judge_lambda(l1_coefficient: Any) -> tuple[str, str]:
    if _blank(l1_coefficient):
        return NOT_ATTEMPTED, ""
    try:
        price = float(l1_coefficient)
    except Exception:
        price = math.nan
    if not 0 <= price < math.inf:
        came = repr(l1_coefficient)[:60]
        return TRIED, f"my_l1_coefficient must be a number from 0 up, such as 0.01; {came} came."
    directions, x = _mystery()
    try:
        sae = SparseAutoencoder(5, 32)
        train_sae(sae, x, l1_coefficient=price, n_steps=3_000)
        with torch.no_grad():
            unexplained = fvu(x, sae(x)[0])
            cosines = _rows(sae.W_dec) @ directions.T
        recovered = int((cosines[_assigned(cosines), range(16)] >= 0.99).sum())
    except Exception as error:
        return TRIED, f"The training broke down at λ = {price:g}. {_raised(error)}"
    text = (
        f"λ = {price:g} recovers {recovered} of the 16 hidden features, "
        f"with {unexplained:.1%} of the variance unexplained."
    )
    if recovered == 16:
        return PASSED, text
    if unexplained < 0.08:
        why = "Too small: the error is small and the features are wrong. Do two seeds agree here?"
    else:
        why = "Too large: weak features are cut off, and the directions drift."
    return TRIED, f"{text} {why}"


FAULTS = {  # run: (its fault's number in the exercise, where to look)
    "A": (3, "look at the decoder norm. Where should it be after every step?"),
    "B": (1, "look at where the curves end."),
    "C": (4, "look at the decoder norm. It settles, but at 1?"),
    "D": (2, "look at the error beside the dotted run. Is a smaller one better?"),
}


def broken_runs() -> dict[str, dict[str, np.ndarray]]:
    """A healthy run and the faulty A to D: step, error, l0 and norm of each, (n_logged,)."""

    class WrongAxis(SparseAutoencoder):  # made here, so that it is a child of the class of today
        @torch.no_grad()
        def normalize_decoder_(self) -> None:
            self.W_dec /= self.W_dec.norm(dim=0, keepdim=True)

    settings = {
        "healthy": (SparseAutoencoder, {}),
        "A": (SparseAutoencoder, {"normalize_decoder": False}),
        "C": (WrongAxis, {}),
        "D": (SparseAutoencoder, {"l1_coefficient": 0.001}),
    }
    runs = {}
    for name, (autoencoder, changes) in settings.items():
        options = {"l1_coefficient": 0.15, "n_steps": 800, "n_logged": 40} | changes
        history = train_sae(autoencoder(5, 32), _mystery()[1], **options)
        norm = history.W_dec.norm(dim=-1).mean(dim=-1)
        fields = {"step": history.step, "error": history.reconstruction, "l0": history.l0}
        runs[name] = {k: v.numpy() for k, v in (fields | {"norm": norm}).items()}
    runs["B"] = {k: v[runs["healthy"]["step"] <= 60] for k, v in runs["healthy"].items()}
    return {name: runs[name] for name in ("healthy", *FAULTS)}


def check_diagnosis(diagnosis: dict[str, int | None]) -> None:
    """diagnosis: for each of the runs A to D the number of its fault, 1 to 4."""
    name = "finding the bug"
    if isinstance(diagnosis, (list, tuple)):
        diagnosis = dict(zip(FAULTS, diagnosis, strict=False))
    if _blank(diagnosis) or (isinstance(diagnosis, dict) and all(map(_blank, diagnosis.values()))):
        return _report(name, NOT_ATTEMPTED)
    given = diagnosis.items() if isinstance(diagnosis, dict) else ()
    given = {f"{run}".strip().upper(): f"{n}".strip() for run, n in given if not _blank(n)}
    named = [run for run in FAULTS if run in given]
    if not named:
        return _report(
            name, TRIED, 'Give each run the number of its fault, as in {"A": 2, "B": 4}.'
        )
    wrong = [run for run in named if given[run].removesuffix(".0") != str(FAULTS[run][0])]
    right = [run for run in named if run not in wrong]
    if len(right) == len(FAULTS):
        return _report(name, PASSED, "All four runs are told apart.")
    _report(name, TRIED, f"Right: {', '.join(right) or 'none'}.")
    for run in wrong:
        print(f"  {run}: {FAULTS[run][1]}")

"""Marks for the exercises: run the learner's answer, name the mistake, never raise.

Each `check_…` prints one verdict and keeps it for `progress()`. An answer is run on small
random tensors and compared with the right one, then with the likely mistakes, each of which
is written out as a function beside the sentence that corrects it.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from sae_lib.metrics import cosine_similarity_matrix, fvu, match_features
from sae_lib.sae import SparseAutoencoder, sae_loss
from sae_lib.training import train_sae
from sae_lib.validation import require_non_negative

NAMES = (
    "forward pass",
    "loss",
    "renormalisation",
    "cosine matrix",
    "matching",
    "choosing λ",
    "finding the bug",
)
PASSED, TRIED, NOT_ATTEMPTED = "passed", "tried", "not attempted yet"
_status = dict.fromkeys(NAMES, NOT_ATTEMPTED)


def progress() -> None:
    """Print how many exercises are passed, tried and not attempted yet."""
    n = {status: list(_status.values()).count(status) for status in (PASSED, TRIED, NOT_ATTEMPTED)}
    print(
        f"Exercises: {n[PASSED]} of {len(NAMES)} passed, {n[TRIED]} tried, "
        f"{n[NOT_ATTEMPTED]} not attempted yet."
    )


def _report(name: str, status: str, text: str = "") -> None:
    _status[name] = status
    verdict = {PASSED: "correct.", TRIED: "not yet.", NOT_ATTEMPTED: "not attempted yet."}[status]
    print(f"{name}: {verdict} {text}".rstrip())


def _raised(error: Exception) -> str:
    """An exception as one sentence."""
    first_line = (str(error).strip().splitlines() or ["no message"])[0][:200]
    return f"It raised {type(error).__name__}: {first_line}"


# --- the first five: functions, compared with the right one and with the likely mistakes ---


def _table(*hints_and_answers: str | Callable) -> list[tuple[str, Callable]]:
    """Pairs of "It looks as if …" and the wrong answer that it is said of."""
    return list(zip(hints_and_answers[::2], hints_and_answers[1::2], strict=True))


class _Exercise(NamedTuple):
    name: str
    parts: tuple[str, ...]  # names of what an answer gives
    run: Callable[[Callable], Any]  # calls an answer on the test inputs
    right: Callable
    mistakes: list[tuple[str, Callable]]
    nothing: str = "The function returns None: is a return missing?"


def _tensors(exercise: _Exercise, value: Any) -> list[torch.Tensor]:
    """What came back, as one tensor of doubles for each part."""
    if not isinstance(value, tuple) and not (isinstance(value, list) and len(exercise.parts) > 1):
        value = [value]  # a list of numbers is one part
    return [torch.as_tensor(part).detach().cpu().double() for part in value]


def _outcome(exercise: _Exercise, answer: Callable) -> list[torch.Tensor] | Exception | None:
    """What the answer gives on the test inputs; an exception counts as an outcome."""
    try:
        value = exercise.run(answer)
        return None if value is None or value is ... else _tensors(exercise, value)
    except Exception as error:
        return error


def _same(a: list[torch.Tensor] | Exception, b: list[torch.Tensor] | Exception) -> bool:
    if isinstance(a, Exception) or isinstance(b, Exception):
        return type(a) is type(b) and str(a) == str(b)
    return len(a) == len(b) and all(
        x.shape == y.shape and torch.allclose(x, y, rtol=1e-4, atol=1e-5)
        for x, y in zip(a, b, strict=True)
    )


def _difference(exercise: _Exercise, got: list[torch.Tensor], wanted: list[torch.Tensor]) -> str:
    """One sentence on the first part that is not as it should be."""
    if len(got) != len(wanted):
        return f"Return {' and '.join(exercise.parts)}; the number of results was {len(got)}."
    for name, x, y in zip(exercise.parts, got, wanted, strict=True):
        if x.shape != y.shape:
            return f"{name} must have shape {tuple(y.shape)} here, but has {tuple(x.shape)}."
        wrong = ~torch.isclose(x, y, rtol=1e-4, atol=1e-5)
        if wrong.any():
            most = f"{(x - y).abs().max().item():.2g}"
            return f"{name}: {int(wrong.sum())} of {y.numel()} numbers are off, by up to {most}."
    return ""


def _is_stub(answer: Any) -> bool:
    code = getattr(answer, "__code__", None)
    return code is None or not (code.co_names or code.co_nlocals > code.co_argcount)


def _mark(exercise: _Exercise, answer: Any) -> None:
    if answer is None or answer is ...:
        return _report(exercise.name, NOT_ATTEMPTED)
    if not callable(answer):
        came = type(answer).__name__
        return _report(exercise.name, TRIED, f"Give the check your function; a {came} came.")
    got, wanted = _outcome(exercise, answer), _outcome(exercise, exercise.right)
    if (got is None and _is_stub(answer)) or isinstance(got, NotImplementedError):
        return _report(exercise.name, NOT_ATTEMPTED)
    if got is None:
        return _report(exercise.name, TRIED, exercise.nothing)
    if _same(got, wanted):
        return _report(exercise.name, PASSED)
    for hint, mistake in exercise.mistakes:
        if _same(got, _outcome(exercise, mistake)):
            return _report(exercise.name, TRIED, f"It looks as if {hint}")
    text = _raised(got) if isinstance(got, Exception) else _difference(exercise, got, wanted)
    return _report(exercise.name, TRIED, text)


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
    lambda answer: answer(*_randn((6, 5), (5, 8), (8,), (8, 5), (5,))),
    _forward,
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


def _loss_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    x, x_hat, h = _randn((6, 5), (6, 5), (6, 8))
    return x, x_hat, relu(h), 0.3


def _total(x, y, h, c):
    return sae_loss(x, y, h, c).total


LOSS = _Exercise(
    "loss",
    ("the total",),
    lambda answer: answer(*_loss_inputs()),
    _total,
    _table(
        "the squared error was averaged over the coordinates, the fivefold trap: sum over them, "
        "then average over the batch.",
        lambda x, y, h, c: _total(x, y, h, 5 * c) / 5,
        "the L1 was averaged over the latents: sum over them, then average over the batch.",
        lambda x, y, h, c: _total(x, y, h, c / 8),
        "both terms were averaged over everything: sum over the last axis, average over the batch.",
        lambda x, y, h, c: (y - x).square().mean() + c * h.mean(),
        "the batch was summed: average over it, or the loss grows with the batch.",
        lambda x, y, h, c: 6 * _total(x, y, h, c),
        "the squared error was summed over the batch: average over it, as the L1 does.",
        lambda x, y, h, c: 6 * _total(x, y, h, c / 6),
        "the L1 was summed over the batch: average over it, as the squared error does.",
        lambda x, y, h, c: _total(x, y, h, 6 * c),
        "λ was forgotten: multiply the L1 by it.",
        lambda x, y, h, c: _total(x, y, h, 1),
        "the L1 penalty was forgotten.",
        lambda x, y, h, c: _total(x, y, h, 0),
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


def _run_steps(step: Callable) -> tuple[torch.Tensor, ...] | None:
    """Three calls on a decoder that does not start at length 1; None if they did nothing."""
    sae = SparseAutoencoder(5, 8)
    x, start = _randn((16, 5), (8, 5))
    sae.W_dec.data = start.clone()
    held = sae.W_dec
    optimizer = torch.optim.SGD(sae.parameters(), lr=0.05)
    for _ in range(3):
        step(sae, optimizer, x, 0.1)
    if held.grad is None and torch.equal(sae.W_dec, start):
        return None
    return sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, held


def _updated(sae, optimizer, x, c, *, zero=True, step=True):
    """A training step without its last line, the normalisation."""
    if zero:
        optimizer.zero_grad()
    sae_loss(x, *sae(x), c).total.backward()
    if step:
        optimizer.step()
    return sae


@torch.no_grad()
def _divided(weight: torch.Tensor, dim: int | tuple[int, int]) -> None:
    weight /= weight.norm(dim=dim, keepdim=True)


BEFORE = (
    "the decoder was normalised before optimizer.step(), which moves the norms off 1 again: "
    "normalise after it."
)
RENORM = _Exercise(
    "renormalisation",
    ("W_enc", "b_enc", "W_dec", "b_dec", "the W_dec that the optimizer holds"),
    _run_steps,
    lambda *a: _updated(*a).normalize_decoder_(),
    _table(
        BEFORE,
        lambda sae, *a: (sae.normalize_decoder_(), _updated(sae, *a)),
        BEFORE,
        lambda s, opt, *a: (_updated(s, opt, *a, step=False).normalize_decoder_(), opt.step()),
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
        lambda *a: setattr(s := _updated(*a), "W_dec", nn.Parameter(_rows(s.W_dec.detach()))),
        "W_dec was replaced by a plain tensor: change the parameter in place.",
        lambda sae, *a: setattr(sae, "W_dec", torch.zeros(1)),
        "autograd watched the normalisation: put it under `with torch.no_grad():`.",
        lambda sae, *a: sae.W_dec.div_(1.0),
    ),
    "The step changed nothing: no gradient, no new weights.",
)


COSINE = _Exercise(
    "cosine matrix",
    ("the matrix",),
    lambda answer: answer(*_randn((8, 5), (6, 5))),
    cosine_similarity_matrix,
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
    lambda answer: answer(torch.tanh(_randn((8, 6), seed=6)[0])),
    lambda c: match_features(c).latent,
    _table(
        "this is the argmax of each column: one latent may then serve two features.",
        lambda c: c.argmax(dim=0),
        "this is the argmax of each row: a latent for each feature is wanted, not the reverse.",
        lambda c: c.argmax(dim=1),
        "the total was minimised: linear_sum_assignment needs maximize=True.",
        lambda c: match_features(-c).latent,
        "|cosine| was matched: then the opposite of a feature counts as found.",
        lambda c: match_features(c.abs()).latent,
        "these are the right latents in rising order: put them in the order of the features.",
        lambda c: np.sort(match_features(c).latent),
        "these are features, in the order of their latents: the reverse is wanted.",
        lambda c: np.argsort(match_features(c).latent),
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
    name = "choosing λ"
    if l1_coefficient is None or l1_coefficient is ...:
        return _report(name, NOT_ATTEMPTED)
    try:
        require_non_negative(my_l1_coefficient=l1_coefficient)
    except (TypeError, ValueError) as error:
        return _report(name, TRIED, str(error))
    directions, x = _mystery()
    sae = SparseAutoencoder(5, 32)
    train_sae(sae, x, l1_coefficient=float(l1_coefficient), n_steps=3_000)
    with torch.no_grad():
        unexplained = fvu(x, sae(x)[0])
    cosine = match_features(cosine_similarity_matrix(sae.W_dec, directions)).cosine
    recovered = int((cosine >= 0.99).sum())
    text = (
        f"λ = {l1_coefficient:g} recovers {recovered} of the {len(cosine)} hidden features, "
        f"with {unexplained:.1%} of the variance unexplained."
    )
    if recovered == len(cosine):
        return _report(name, PASSED, text)
    text += (
        " Too small: the error is small and the features are wrong. Do two seeds agree here?"
        if unexplained < 0.08
        else " Too large: weak features are cut off, and the directions drift."
    )
    return _report(name, TRIED, text)


class _WrongAxis(SparseAutoencoder):
    """An SAE whose columns are set to length 1, in place of its rows."""

    @torch.no_grad()
    def normalize_decoder_(self) -> None:
        self.W_dec /= self.W_dec.norm(dim=0, keepdim=True)


FAULTS = {  # run: (its fault's number in the exercise, where to look)
    "A": (3, "look at the decoder norm. Where should it be after every step?"),
    "B": (1, "look at where the curves end."),
    "C": (4, "look at the decoder norm. It settles, but at 1?"),
    "D": (2, "look at the error beside the dotted run. Is a smaller one better?"),
}


def broken_runs() -> dict[str, dict[str, np.ndarray]]:
    """A healthy run and the faulty A to D: step, error, l0 and norm of each, (n_logged,)."""
    settings = {
        "healthy": (SparseAutoencoder, {}),
        "A": (SparseAutoencoder, {"normalize_decoder": False}),
        "C": (_WrongAxis, {}),
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
    given = diagnosis if isinstance(diagnosis, dict) else {}
    given = {run: given[run] for run in FAULTS if given.get(run) is not None}
    if not given:
        return _report(name, NOT_ATTEMPTED)
    right = [run for run, answer in given.items() if str(answer) == str(FAULTS[run][0])]
    if len(right) == len(FAULTS):
        return _report(name, PASSED, "All four runs are told apart.")
    _report(name, TRIED, f"Right: {', '.join(right) or 'none'}.")
    for run in given:
        if run not in right:
            print(f"  {run}: {FAULTS[run][1]}")

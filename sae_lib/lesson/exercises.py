"""Marks for the exercises: run the learner's answer, name the likely mistake, never raise.

Each `mark_…` prints one verdict, and `progress()` counts the best one of each. Everything here
uses the library's own SAE, loss and loop, so no edit in the notebook moves a mark.
"""

import copy
import functools
import itertools
import math
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sae_lib.metrics import cosine_similarity_matrix, fires, fvu, live_directions, recovered
from sae_lib.sae import SparseAutoencoder
from sae_lib.training import train_sae

NOT_ATTEMPTED, TRIED, PASSED = LEVELS = ("not attempted yet", "not yet", "correct")
_status: dict[str, str] = {}


def progress() -> None:
    """Print how many exercises are passed, tried and not attempted yet."""
    untouched, tried, passed = (list(_status.values()).count(level) for level in LEVELS)
    n = len(_status)
    print(f"Exercises: {passed} of {n} passed, {tried} tried, {untouched} not attempted yet.")


class _NotYet(Exception):
    """A sentence on what is wrong with an answer."""


def _exercise(name: str) -> Callable:
    """Make a mark of a judge: it returns a sentence if the answer is right, else raises _NotYet."""
    _status[name] = NOT_ATTEMPTED
    return lambda judge: functools.wraps(judge)(functools.partial(_mark, name, judge))


def _mark(name: str, judge: Callable[[Any], str], answer: Any) -> None:
    """Print the verdict on an answer; what was reached before stays reached."""
    try:
        if answer is None:
            raise NotImplementedError
        level, text = PASSED, judge(answer)
    except _NotYet as hint:
        level, text = TRIED, str(hint)
    except (Exception, SystemExit) as error:
        is_blank = isinstance(error, NotImplementedError) and not error.args
        level, text = (NOT_ATTEMPTED, "") if is_blank else (TRIED, _raised(error))
    _status[name] = max(_status[name], level, key=LEVELS.index)
    print(f"{name}: {level}. {text}".rstrip())


def _raised(error: BaseException) -> str:
    """An exception as one sentence."""
    text = f"It raised {traceback.format_exception_only(error)[0].splitlines()[0][:200]}"
    in_place = "in-place operation" in text
    return f"{text} Autograd watched: write `with torch.no_grad():`." if in_place else text


def _real(value: Any) -> torch.Tensor:
    """A tensor, an array, a number, or a list of such, as a tensor of doubles."""
    if value is None:
        raise _NotYet("The function returns None: is a return missing?")
    try:
        if isinstance(value, (list, tuple)):
            value = torch.stack([_real(entry) for entry in value])
        value = torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:  # text, an iterator, rows unlike
        came = type(value).__name__
        raise _NotYet(f"What came (a {came}) cannot be read as numbers.") from error
    if value.is_complex():
        raise _NotYet("Complex numbers came: real ones are wanted.")
    return value.double()


def _number(value: Any) -> float:
    value = _real(value)
    if value.numel() != 1:
        raise _NotYet(f"One number is wanted; the shape that came is {tuple(value.shape)}.")
    return value.item()


# --- the same price -------------------------------------------------------------------------

PRICES = ((0.001, 5, 2.0), (0.3, 8, 0.5), (0.04, 3, 10.0))  # λ, d_in, scale
WRONG_PRICES = {
    "The answer is upside down: it leads from your colleague to you.": lambda p, d, c: p * d / c,
    "A mean over d_in makes the error smaller: λ must shrink as well.": lambda p, d, c: p * d * c,
    "The error grows with scale squared, but the L1 grows too.": lambda p, d, c: p * c * c / d,
    "Larger activations need a larger λ, not a smaller one.": lambda p, d, c: p / c / d,
    "The mean is in it; the scale of the activations is not.": lambda p, d, c: p / d,
    "The scale is in it; the mean over d_in is not.": lambda p, d, c: p * c,
    "This is λ as it was, without the mean and the scale.": lambda p, d, c: p,
}


@_exercise("the same price")
def mark_price(answer: Callable) -> str:
    """answer(l1_coefficient, d_in, scale) -> the λ of a mean over d_in, on scale · activations"""
    given = [_number(answer(*case)) for case in PRICES]
    is_right = np.isclose(given, [p * c / d for p, d, c in PRICES], rtol=1e-5, atol=0)
    if is_right.all():
        return ""
    for hint, wrong in WRONG_PRICES.items():
        if np.allclose(given, [wrong(*case) for case in PRICES], rtol=1e-5, atol=0):
            raise _NotYet(hint)
    i = is_right.argmin()
    case = "λ = {}, d_in = {}, scale = {}".format(*PRICES[i])
    raise _NotYet(f"For {case} it gives {given[i]:.4g}, and that is not the same solution.")


# --- the cheat ------------------------------------------------------------------------------


def _pairs(seed: int) -> torch.Tensor:
    """Ten directions (10, 5) in five opposite pairs, in random order, not of length 1."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    lengths = 1 + torch.rand(10, 1, generator=generator)
    return lengths * torch.cat([axes, -axes])[torch.randperm(10, generator=generator)]


@_exercise("the cheat")
def mark_cheat(answer: Callable) -> str:
    """answer(truth (10, 5)) -> W_dec (20, 5), of best |cosine| 1 and half of the features"""
    for truth in (_pairs(0), _pairs(1), _pairs(2)):
        W_dec = _real(answer(truth.clone()))
        if W_dec.shape != (20, 5):
            raise _NotYet(f"W_dec must have shape (20, 5), but {tuple(W_dec.shape)} came.")
        score = cosine_similarity_matrix(W_dec, truth).abs().max(dim=0).values.mean().item()
        found = recovered(W_dec, truth)
        if score < 0.999:
            raise _NotYet(
                f"The score is {score:.3f}, and 0.999 is wanted. Which features have neither a "
                "latent nor the opposite of one?"
            )
        if found > 5:
            raise _NotYet(
                f"The score is {score:.3f}, but deservedly: {found} of 10 features are there. "
                "Which two can an absolute value not tell apart?"
            )
    return f"The score says {score:.3f}, and {found} of 10 features are there."


# --- the mystery, for the last three: its truth stays hidden ---------------------------------


@functools.cache
def _mystery() -> tuple[torch.Tensor, torch.Tensor]:
    """Directions (16, 5) and activations (20_000, 5).

    The 16 corners of the five-dimensional cube with an even number of minus signs: no two are
    closer than cosine 0.2. Turned at random, so that no axis gives it away.
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


@_exercise("choosing λ")
def mark_lambda(l1_coefficient: float | None) -> str:
    """Train an SAE on the mystery at this λ, and only then look at the truth."""
    price = _number(l1_coefficient)
    if not 0 <= price < math.inf:
        raise _NotYet(f"λ must be a number from 0 up, such as 0.01; {price} came.")
    directions, x = _mystery()
    sae = SparseAutoencoder(5, 32)
    train_sae(sae, x, l1_coefficient=price, n_steps=3_000)
    unexplained, found = fvu(x, sae(x)[0]), recovered(sae.W_dec, directions)
    text = (
        f"λ = {price:g} recovers {found} of the 16 hidden features, "
        f"with {unexplained:.1%} of the variance unexplained."
    )
    if found == 16:
        return text
    if unexplained < 0.08:
        why = "Too small: the error is small and the features are wrong. Do two seeds agree here?"
    else:
        why = "Too large: weak features are cut off, and the directions drift."
    raise _NotYet(f"{text} {why}")


FAULTS = {  # run: (its fault's number in the exercise, where to look)
    "A": (3, "look at the decoder norm. Where should it be after every step?"),
    "B": (1, "look at where the curves end."),
    "C": (4, "look at the decoder norm. It settles, but at 1?"),
    "D": (2, "look at the error beside the dotted run. Is a smaller one better?"),
}


@_exercise("finding the bug")
def mark_diagnosis(diagnosis: dict[str, int | None]) -> str:
    """diagnosis: for each of the runs A to D the number of its fault, 1 to 4."""
    if not isinstance(diagnosis, dict):
        raise _NotYet('Give each run the number of its fault, as in {"A": 2, "B": 4}.')
    given = {run: n for run, n in diagnosis.items() if n is not None}
    if not given:
        raise NotImplementedError
    right = [run for run, (fault, _) in FAULTS.items() if given.get(run) == fault]
    wrong = [f"\n  {run}: {FAULTS[run][1]}" for run in FAULTS if run in given and run not in right]
    if len(right) < len(FAULTS):
        raise _NotYet(f"Right: {', '.join(right) or 'none'}.{''.join(wrong)}")
    return "All four runs are told apart."


# --- dead latents ---------------------------------------------------------------------------


def dying_sae() -> tuple[SparseAutoencoder, torch.Tensor]:
    """An SAE with 32 latents, most of them killed by 400 steps at λ = 1; and its activations."""
    sae = SparseAutoencoder(5, 32, seed=3)
    train_sae(sae, _mystery()[1], l1_coefficient=1.0, n_steps=400, seed=3)
    return sae, mystery_activations()


@_exercise("dead latents")
def mark_revive(answer: Callable) -> str:
    """answer(sae, x) gives the latents that fire on none of x (n, d_in) a new start, in place."""
    sae, x = dying_sae()

    def latents():  # a row for each: what it reads, its bias, what it writes; and which are dead
        rows = torch.cat([sae.W_enc.T, sae.b_enc[:, None], sae.W_dec], dim=1)
        return rows, ~fires(sae.encode(x)).any(dim=0)

    left_alone, (old, dead) = copy.deepcopy(sae), latents()
    with torch.random.fork_rng(devices=[]):  # it may draw, and gets the same draw every time
        torch.manual_seed(0)
        answer(sae, x.clone())
        new, still = latents()
        if not torch.isfinite(new).all():
            raise _NotYet("NaN or infinite weights came: an input of zeros has no direction.")
        if not torch.equal(new[~dead], old[~dead]):
            raise _NotYet("Latents that were alive were changed too: leave them alone.")
        if still.any():
            silent = f"{still.sum()} of {dead.sum()} dead latents still fire on no input."
            raise _NotYet(f"{silent} Did both W_enc and b_enc get new values?")
        loudness = sae.W_enc[:, dead].norm(dim=0).median()
        text = _trained_on(sae, x, answer)
    if recovered(sae.W_dec, _mystery()[0]) == 16:
        return f"{text}. Left alone: {_trained_on(left_alone, x, lambda *_: None)}."
    why = "Give each dead latent a direction of its own, among the badly rebuilt inputs."
    if loudness > 0.6:  # a new SAE's are 2 · 5 / 32 long
        why = "Too loud: a new SAE has W_enc at 2 d_in / d_sae times W_dec.T."
    raise _NotYet(f"They fire again, but do not find all: {text}. {why}")


def _trained_on(sae: SparseAutoencoder, x: torch.Tensor, revive: Callable) -> str:
    """Two rounds of revive and train, in place, at a price that is right; what they found."""
    for round_ in range(2):
        revive(sae, x.clone())
        train_sae(sae, x, l1_coefficient=0.15, n_steps=400, seed=round_)
    found = recovered(sae.W_dec, _mystery()[0])
    return f"{len(live_directions(sae, x))} of 32 latents alive, {found} of 16 features found"

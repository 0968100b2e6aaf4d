"""Checks for the exercises: run the learner's answer, name the likely mistake, never raise.

Each `check_…` prints one verdict. Everything here uses the library's own SAE, loss and loop, so
no edit in the notebook changes what a check says.
"""

import functools
import itertools
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sae_lib.metrics import cosine_similarity_matrix, fires, fvu, live_directions, recovered
from sae_lib.sae import SparseAutoencoder
from sae_lib.training import train_sae

NOT_ATTEMPTED, TRIED, PASSED = LEVELS = ("not attempted yet", "not yet", "correct")
_best: dict[str, str] = {}  # the level reached in each exercise whose check was run


def progress() -> None:
    """Count the exercises whose checks were run in this session, by the best verdict of each."""
    counts = [list(_best.values()).count(level) for level in LEVELS]
    print("Exercises checked here: {2} passed, {1} tried, {0} not attempted yet.".format(*counts))


class _NotYet(Exception):
    """A sentence on what is wrong with an answer."""


def _exercise(name: str) -> Callable:
    """Make a check of a judge: it returns a sentence if the answer is right, else raises _NotYet.

    The check prints the verdict; what was reached before stays reached.
    """

    def check(judge: Callable[[Any], str], answer: Any) -> None:
        try:
            if answer is None:
                raise NotImplementedError
            level, text = PASSED, judge(answer)
        except _NotYet as hint:
            level, text = TRIED, str(hint)
        except (Exception, SystemExit) as error:
            is_blank = isinstance(error, NotImplementedError) and not error.args
            level, text = (NOT_ATTEMPTED, "") if is_blank else (TRIED, _raised(error))
        _best[name] = max(_best.get(name, level), level, key=LEVELS.index)
        print(f"{name}: {level}. {text}".rstrip())

    return lambda judge: functools.wraps(judge)(functools.partial(check, judge))


def _raised(error: BaseException) -> str:
    """An exception as one sentence."""
    text = f"It raised {traceback.format_exception_only(error)[0].splitlines()[0][:200]}"
    in_place = "in-place operation" in text
    return f"{text} Autograd watched: write `with torch.no_grad():`." if in_place else text


def _real(value: Any) -> np.ndarray:
    """A tensor, an array, a number, or a list of such, as doubles."""
    try:
        if value is not None:  # numpy's word for None is nan
            return np.asarray(value, dtype=float)
    except (TypeError, ValueError, OverflowError):
        pass
    raise _NotYet(f"Expected numbers, got {value!r:.60}.")


def _number(value: Any) -> float:
    value = _real(value)
    if value.size != 1:
        raise _NotYet(f"Expected one number, got the shape {value.shape}.")
    return value.item()


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
def check_price(answer: Callable) -> str:
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


def _pairs(seed: int) -> torch.Tensor:
    """Ten directions (10, 5) in five opposite pairs, in random order, not of length 1."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    lengths = 1 + torch.rand(10, 1, generator=generator)
    return lengths * torch.cat([axes, -axes])[torch.randperm(10, generator=generator)]


@_exercise("the cheat")
def check_cheat(answer: Callable) -> str:
    """answer(ground_truth (10, 5)) -> W_dec (20, 5), of best |cosine| 1 and half of the features"""
    for ground_truth in map(_pairs, range(3)):
        W_dec = torch.from_numpy(_real(answer(ground_truth.clone())))
        if W_dec.shape != (20, 5):
            raise _NotYet(f"Expected a W_dec of shape (20, 5), got {tuple(W_dec.shape)}.")
        score = cosine_similarity_matrix(W_dec, ground_truth).abs().max(dim=0).values.mean().item()
        found = recovered(W_dec, ground_truth)
        if score < 0.999:
            hint = "Which features have neither a latent nor the opposite of one?"
            raise _NotYet(f"The score is {score:.3f}, and 0.999 is wanted. {hint}")
        if found > 5:
            said = f"The score is {score:.3f}, but deservedly: {found} of 10 features are there."
            raise _NotYet(f"{said} Which two can an absolute value not tell apart?")
    return f"The score says {score:.3f}, and {found} of 10 features are there."


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
def check_lambda(l1_coefficient: float | None) -> str:
    """Train an SAE on the mystery at this λ, and only then look at the ground truth."""
    price = _number(l1_coefficient)
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
def check_diagnosis(diagnosis: dict[str, int | None]) -> str:
    """diagnosis: for each of the runs A to D the number of its fault, 1 to 4."""
    try:
        given = {run.upper(): int(n) for run, n in diagnosis.items() if n is not None}
    except (AttributeError, TypeError, ValueError) as error:
        raise _NotYet(
            f'Expected numbers as in {{"A": 2, "B": 4}}, got {diagnosis!r:.60}.'
        ) from error
    if not given:
        raise NotImplementedError
    right = [run for run, (fault, _) in FAULTS.items() if given.get(run) == fault]
    if len(right) == len(FAULTS):
        return "All four runs are told apart."
    wrong = [f"\n  {run}: {FAULTS[run][1]}" for run in FAULTS if run in given.keys() - right]
    raise _NotYet(f"Right: {', '.join(right) or 'none'}.{''.join(wrong)}")


def dying_sae() -> tuple[SparseAutoencoder, torch.Tensor]:
    """An SAE with 32 latents, most of them killed by 400 steps at λ = 1; and its activations."""
    sae = SparseAutoencoder(5, 32, seed=3)
    train_sae(sae, _mystery()[1], l1_coefficient=1.0, n_steps=400, seed=3)
    return sae, mystery_activations()


@_exercise("dead latents")
def check_revive(answer: Callable) -> str:
    """answer(sae, x) gives the latents that fire on none of x (n, d_in) a new start, in place."""
    (sae, x), loudness = dying_sae(), []

    def latents():  # a row for each: what it reads, its bias, what it writes; and which are dead
        rows = torch.cat([sae.W_enc.T, sae.b_enc[:, None], sae.W_dec], dim=1).detach()
        return rows, ~fires(sae.encode(x)).any(dim=0)

    def revive() -> None:
        old, dead = latents()
        answer(sae, x.clone())
        new, still = latents()
        if not torch.isfinite(new).all():
            raise _NotYet("Got NaN or infinite weights: an input of zeros has no direction.")
        if not torch.allclose(new[~dead], old[~dead], rtol=0, atol=1e-5):  # it may normalise
            raise _NotYet("Latents that were alive were changed too: leave them alone.")
        if still.any():
            silent = f"{still.sum()} of {dead.sum()} dead latents still fire on no input."
            raise _NotYet(f"{silent} Did both W_enc and b_enc get new values?")
        loudness.append(sae.W_enc[:, dead].norm(dim=0).median())

    with torch.random.fork_rng(devices=[]):  # it may draw, and gets the same draw every time
        torch.manual_seed(0)
        text = _trained_on(sae, x, revive)
    if recovered(sae.W_dec, _mystery()[0]) == 16:
        return f"{text}. Left alone: {_trained_on(*dying_sae(), lambda: None)}."
    why = "Give each dead latent a direction of its own, among the badly rebuilt inputs."
    if loudness[0] > 0.6:  # a new SAE's are 2 · 5 / 32 long
        why = "Too loud: a new SAE has W_enc at 2 d_in / d_sae times W_dec.T."
    raise _NotYet(f"They fire again, but do not find all: {text}. {why}")


def _trained_on(sae: SparseAutoencoder, x: torch.Tensor, revive: Callable) -> str:
    """Two rounds of revive and train, in place, at a price that is right; what they found."""
    for round_ in range(2):
        revive()
        train_sae(sae, x, l1_coefficient=0.15, n_steps=400, seed=round_)
    found = recovered(sae.W_dec, _mystery()[0])
    return f"{len(live_directions(sae, x))} of 32 latents alive, {found} of 16 features found"

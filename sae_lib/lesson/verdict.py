"""The verdict: what was found, said of the objects that were judged and of nothing else."""

import html

import numpy as np
from IPython.display import display

from sae_lib.metrics import judge, recovered
from sae_lib.toy_model import ToyModel
from sae_lib.training import TrainingHistory


def show_verdict(history: TrainingHistory, toy_model: ToyModel, at: float = 0.99) -> None:
    """Judge the SAE of this training, and display how many features it found and how we know.

    Raises AssertionError, with the same words, if a feature is missing, or if a random dictionary
    comes close: the worst match must lie at least half of the way from the luckiest of 200 random
    dictionaries to 1. Everything is read from the SAE, its history and the toy model.
    """
    sae, prices = history.sae, history.prices
    judgement = judge(sae, toy_model, at)
    n, n_found = len(judgement.found), int(judgement.found.sum())
    before = recovered(history.W_dec[0], toy_model.feature_directions, at)
    worst = np.nanmin(judgement.cosine)
    luckiest = np.nanmin(judgement.chance, axis=1).max()
    norms = sae.W_dec.detach().norm(dim=1)
    start = f"from {prices[0]:g} to " if prices[0] != prices[-1] else ""
    headline = f"{n_found} of {n} recovered"
    facts = [
        f"worst cosine {np.floor(1000 * worst) / 1000:.3f}",
        f"by chance {luckiest:.3f}: the luckiest of {len(judgement.chance)} random dictionaries",
        f"recovered means: cosine {at} or more, and firing with its feature",
        f"{len(sae.W_dec)} latents, decoder rows of length {norms.min():.2f} to {norms.max():.2f}",
        f"λ = {start}{prices[-1]:g}, {len(prices):,} steps of {history.batch_size}, "
        f"from a start that had {before} of {n}",
        f"toy model of sparsity {toy_model.sparsity}, seed {toy_model.seed}",
    ]
    said = "\n".join([headline, *facts])
    if n_found < n:
        raise AssertionError(f"Expected all {n} features, got this:\n{said}")
    if worst <= (1 + luckiest) / 2:  # in one dimension both are 1
        raise AssertionError(f"Random directions come close, so this proves nothing:\n{said}")
    small = "<br>".join(map(html.escape, facts[2:]))
    big = (
        '<div style="margin:.5em 0"><div style="font-size:2.6em;font-weight:700;line-height:1.2">'
        f'{headline}</div><div style="font-size:1.25em;margin:.3em 0 .6em">{facts[0]}'
        f'<br>{facts[1]}</div><div style="opacity:.75;font-size:.85em">{small}</div></div>'
    )
    display({"text/html": big, "text/plain": said}, raw=True)

"""10 in 5, looked at closely: width, the switch, patience."""

import copy
from collections.abc import Iterator

import numpy as np

from evidence.common import new_saes, scores, toy_models, train, trained
from sae_lib.metrics import cosine_similarity_matrix, fires, recovered

CASE = (10, 5, 0.9)


def roles(sae, model, features, x) -> dict:
    """Latents that are dead, always on (fire on 90 % of inputs), twins (second on a feature)."""
    rate = fires(sae.encode(x)).float().mean(dim=0)
    on_feature = cosine_similarity_matrix(sae.W_dec, model.feature_directions) >= 0.99
    twins = ((on_feature & (rate > 0)[:, None]).sum(dim=0) - 1).clamp(min=0).sum()
    return {"dead": (rate == 0).sum(), "always on": (rate > 0.9).sum(), "twins": twins}


def width() -> Iterator[dict]:
    """The lesson's recipe (λ = 0.001, 8,000 batches) from five latents to eighty.

    16 SAE seeds for 10 latents, else 8.
    """
    models = toy_models(*CASE)
    for d_sae in (5, 10, 12, 20, 80):
        saes = trained(models, d_sae, l1=0.001, seeds=range(16 if d_sae == 10 else 8))
        yield from scores(models, saes, roles, d_sae=d_sae)


def switch() -> Iterator[dict]:
    """The price switched on late: 3,000 batches at λ = 0, 3,000 with a price, 3,000 at λ = 0.

    Every phase is a call of train_sae on the same SAEs. For the phase with the price: the batch
    from which on all ten are found, and stay found to its end; for the last, the fewest found.
    8 SAE seeds.
    """
    models = toy_models(*CASE)
    off = trained(models, 20, seeds=range(8), n_steps=3_000)
    yield from scores(models, off, roles, phase="off", l1=0)
    saes = copy.deepcopy(off)  # the control: a new start of the optimiser alone
    train(models, saes, 0.0, seed=1, n_steps=3_000)
    yield from scores(models, saes, roles, phase="off, off", l1=0)
    for l1 in (0.01, 0.001):
        saes = copy.deepcopy(off)
        for phase, price in (("on", l1), ("off again", 0.0)):
            runs = train(models, saes, price, seed=1, n_steps=3_000, n_logged=250)
            for row in scores(models, saes, roles, phase=phase, l1=l1):
                ground_truth = models[row["toy_model"]].feature_directions
                row |= {"all found from batch": [], "fewest found": []}
                for run in runs[row["toy_model"]]:
                    found = [recovered(W_dec, ground_truth) for W_dec in run.W_dec]
                    missing = [step for step, n in zip(run.step, found, strict=True) if n < 10]
                    row["all found from batch"].append(max(missing, default=-1) + 1)
                    row["fewest found"].append(min(found))
                yield row


def patience() -> Iterator[dict]:
    """Can patience replace the price? λ = 0 for 60,000 batches, 20 latents.

    A row is a look at the same runs: features found, L0 and the error so far.
    """
    models = toy_models(*CASE)
    runs = train(models, new_saes(models, 20), 0.0, n_steps=60_000, n_logged=200)
    for batches in (1_000, 3_000, 8_000, 30_000, 60_000):
        for m, histories in runs.items():
            step = np.array(histories[0].step) + 1
            at = int(abs(step - batches).argmin())  # the nearest of those that were logged
            found = [recovered(h.W_dec[at], models[m].feature_directions) for h in histories]
            row = {"batches": batches, "toy_model": m, "looked at": int(step[at])}
            row |= {"recovered": found, "l0": [h.l0[at] for h in histories]}
            yield row | {"error": [h.reconstruction[at] for h in histories]}

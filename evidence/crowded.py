"""More features than the easy case holds: where it ends, and what each price and each k finds."""

from collections.abc import Iterator

import torch
from torch.nn.functional import normalize

from evidence.common import CROWDED, data, mean_agreement, scores, toy_models, trained
from sae_lib import FALLING_PRICE
from sae_lib.metrics import cosine_similarity_matrix, fires, match_features


def phase() -> Iterator[dict]:
    """n features in d dimensions, sparsity 0.95, 4n latents: λ that falls to 0.001, and k = 1.

    4 SAE seeds, 2 at k = 1. At most 2d directions in d dimensions have no two closer than a
    right angle.
    """
    for d in (3, 5, 8):
        for n in (2 * d - 1, 2 * d, 2 * d + 1, 2 * d + 2, 3 * d, 4 * d):
            models, about = toy_models(n, d, 0.95), {"d": d, "n_features": n}
            saes = trained(models, 4 * n, l1=0.001, seeds=range(4), **FALLING_PRICE)
            yield from scores(models, saes, **about, l1=0.001)
            if n in (2 * d, 3 * d, 4 * d):
                saes = trained(models, 4 * n, k=1, seeds=range(2), **CROWDED)
                yield from scores(models, saes, **about, k=1)


def spares(sae, model, features, x) -> dict:
    """What the live latents are that no feature needs: twins, sums of two features, the rest."""
    ground_truth = normalize(model.feature_directions, dim=1)
    i, j = torch.triu_indices(len(ground_truth), len(ground_truth), 1)
    sums = ground_truth[i] + ground_truth[j]
    sums = sums[sums.norm(dim=1) > 0.1]  # opposite features have no direction between them
    spare = fires(sae.encode(x)).any(dim=0)
    spare[match_features(cosine_similarity_matrix(sae.W_dec, ground_truth)).latent] = False
    if not spare.any():
        return {"twins": 0, "sums": 0, "others": 0}
    twin = cosine_similarity_matrix(sae.W_dec[spare], ground_truth).max(dim=1).values >= 0.95
    pair = cosine_similarity_matrix(sae.W_dec[spare], sums).max(dim=1).values >= 0.95
    counts = {"twins": twin, "sums": pair & ~twin, "others": ~pair & ~twin}
    return {name: which.sum() for name, which in counts.items()}


@torch.no_grad()
def agreement_of_common(saes: list, x: torch.Tensor) -> float:
    """Agreement of the seeds if only latents count that fire on at least 1 % of the inputs."""
    often = [s.W_dec[fires(s.encode(x)).float().mean(dim=0) >= 0.01] for s in saes]
    return mean_agreement(often)


def crowded_map() -> Iterator[dict]:
    """10, 15 and 20 features in 5 dimensions, sparsity 0.95, 40 latents, 2,000 batches.

    16 SAE seeds for 15 in 5, else 8. twins, sums of two features and others: what live latents
    are that no feature needs.
    """
    settings = [{"l1": l1} for l1 in (0.001, 0.1, 0.15, 0.2, 0.3)]
    settings += [{"k": k} for k in (1, 2, 3)]
    for n in (10, 15, 20):
        models = toy_models(n, 5, 0.95)
        for setting in settings:
            seeds = range(16 if n == 15 else 8)
            saes = trained(models, 40, seeds=seeds, **setting, **CROWDED)
            for row in scores(models, saes, spares, n_features=n, **setting):
                m = row["toy_model"]
                features, x = data(models[m], 10_000, m + 1_000)
                row["true l0"] = (features > 0.01).sum(dim=1).float().mean()
                row["agreement, common latents"] = agreement_of_common(saes[m], x)
                yield row


def error_and_activity(sae, model, features, x) -> dict:
    """The two terms that a price weighs against each other, λ left out."""
    _, error, activity = sae.loss(x, 1.0)
    return {"error": error, "activity": activity}


def cost() -> Iterator[dict]:
    """15 in 5 as in map: what the code of a low price costs at a high one, and the reverse."""
    models = toy_models(15, 5, 0.95)
    for l1 in (0.001, 0.2):
        saes = trained(models, 40, l1=l1, **CROWDED)
        yield from scores(models, saes, error_and_activity, l1=l1)

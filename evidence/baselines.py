"""What other methods find from the same activations, and what one can read with each."""

import time
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from sklearn.decomposition import sparse_encode
from torch.nn.functional import normalize

from evidence.common import CROWDED, data, toy_models, trained
from sae_lib import FALLING_PRICE, ToyModel
from sae_lib.baselines import ica_directions, kmeans_directions, sparse_coding_directions
from sae_lib.metrics import FIRES, cosine_similarity_matrix, fires, match_features, recovered

# (features, dimensions, sparsity), latents, the settings of its SAEs, and seeds of each method
CASES = {
    "10 in 5": ((10, 5, 0.9), 20, ({"l1": 0.001} | FALLING_PRICE, {"k": 1} | CROWDED), 16, 2),
    "15 in 5": ((15, 5, 0.95), 40, ({"l1": 0.2} | CROWDED, {"k": 1} | CROWDED), 16, 2),
    "100 in 30": ((100, 30, 0.95), 200, ({"l1": 0.1} | CROWDED, {"k": 5} | CROWDED), 2, 1),
}
METHODS = {
    "sparse coding, 2n atoms": lambda x, n, seed: sparse_coding_directions(x, 2 * n, seed=seed),
    "k-means, n clusters": lambda x, n, seed: kmeans_directions(x, n, seed=seed),
    "FastICA, both signs": lambda x, n, seed: ica_directions(x, seed=seed),
}


@cache
def saes_of(case: str) -> dict[str, dict]:
    """{method: {toy model: SAEs}}, trained once for both of their uses."""
    sizes, d_sae, (l1, topk), n_seeds, _ = CASES[case]
    models, seeds = toy_models(*sizes), range(n_seeds)
    kinds = {"L1 SAE": l1, "TopK SAE": topk}
    return {name: trained(models, d_sae, seeds=seeds, **how) for name, how in kinds.items()}


def seconds(job, *inputs) -> float:
    started = time.process_time()
    job(*inputs)
    return time.process_time() - started


def baselines() -> Iterator[dict]:
    """Features recovered from 20,000 activations: classical methods and SAEs.

    Their settings and the number of latents or atoms were chosen with the ground truth. The
    seconds are of one thread, for encoding a million inputs.
    """
    for case, (sizes, _, _, _, n_seeds) in CASES.items():
        saes = saes_of(case)
        for m, model in toy_models(*sizes).items():
            x, ground_truth = data(model, 20_000, m)[1], model.feature_directions
            for method, find in METHODS.items():
                found = [find(x, sizes[0], seed) for seed in range(n_seeds)]
                row = {"recovered": [recovered(directions, ground_truth) for directions in found]}
                if method.startswith("sparse"):
                    spent = seconds(lasso, x[:1_000], normalize(ground_truth, dim=1), 0.03)
                    row["seconds per million"] = 1_000 * spent
                yield {"case": case, "method": method, "toy_model": m} | row
            for method, of in saes.items():
                row = {"recovered": [recovered(sae.W_dec, ground_truth) for sae in of[m]]}
                row["seconds per million"] = 50 * seconds(torch.no_grad()(of[m][0].encode), x)
                yield {"case": case, "method": method, "toy_model": m} | row


def lasso(x: torch.Tensor, directions: torch.Tensor, alpha: float) -> torch.Tensor:
    """Non-negative sparse coding of every input: min |x - h D|^2 / 2 + alpha |h|_1, h >= 0."""
    x, D = x.double().numpy(), directions.double().numpy()
    code = sparse_encode(x, D, algorithm="lasso_cd", alpha=alpha, positive=True, max_iter=10_000)
    return torch.tensor(code)


def f1_at(acts: torch.Tensor, owner: np.ndarray, is_on: np.ndarray, threshold: float) -> float:
    """Mean over features of F1: is its latent above the threshold when the feature is on?"""
    fired = acts.numpy()[:, owner] > threshold
    both = (fired & is_on).sum(axis=0)
    return float(np.mean(2 * both / (fired.sum(axis=0) + is_on.sum(axis=0))))


def merge_twins(directions: torch.Tensor, acts: torch.Tensor) -> tuple:
    """One direction for all that are at cosine 0.99 to each other, their activations summed."""
    close = cosine_similarity_matrix(directions, directions) >= 0.99
    taken, groups = torch.zeros(len(close), dtype=torch.bool), []
    for row in close:
        if not (row & taken).any():
            groups.append(row)
            taken |= row
    groups = torch.stack(groups).to(directions)
    return normalize(groups @ directions, dim=1), acts @ groups.T


def one_layer(model: ToyModel) -> torch.nn.Linear:
    """The supervised encoder: told the ground truth, it learns each feature's strength."""
    ground_truth = model.feature_directions
    layer = torch.nn.Linear(ground_truth.shape[1], ground_truth.shape[0])
    with torch.no_grad():
        layer.weight[:], layer.bias[:] = ground_truth, 0.0
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2_000)
    features, pool = data(model, 100_000, 7)
    strengths = features * ground_truth.norm(dim=1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2_000):
        rows = torch.randint(len(pool), (1_024,), generator=generator)
        loss = (torch.relu(layer(pool[rows])) - strengths[rows]).square().sum(dim=1).mean()
        layer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return layer


ALPHAS = (0.003, 0.01, 0.03, 0.06, 0.1)
THRESHOLDS = (FIRES, *np.arange(0.02, 0.6, 0.02).tolist())


@torch.no_grad()
def ways_to_read(x: torch.Tensor, model: ToyModel, told: torch.nn.Linear, saes: dict) -> dict:
    """{(method, alpha or None): (activations, which column belongs to each feature)}."""
    ground_truth = normalize(model.feature_directions, dim=1)
    own = np.arange(len(ground_truth))
    ways = {("one layer", None): (told(x), own)}
    ways |= {("ground truth, lasso", a): (lasso(x, ground_truth, a), own) for a in ALPHAS}
    for name, sae in saes.items():
        acts = sae.encode(x)
        live = fires(acts).any(dim=0)
        directions, acts = merge_twins(sae.W_dec[live], acts[:, live])
        owner = match_features(cosine_similarity_matrix(directions, ground_truth)).latent
        ways[f"{name}, its encoder", None] = acts, owner
        for a in ALPHAS:
            ways[f"{name}, lasso on its decoder", a] = lasso(x, directions, a), owner
    return ways


def best_settings(ways: dict, is_on: np.ndarray) -> dict:
    """{method: (F1, alpha, threshold)}: the alpha and threshold at which each method is best."""
    best = {}
    for (name, alpha), (acts, owner) in ways.items():
        for threshold in THRESHOLDS:
            f1 = f1_at(acts, owner, is_on, threshold)
            if name not in best or f1 > best[name][0]:
                best[name] = f1, alpha, threshold
    return best


def reading() -> Iterator[dict]:
    """F1 of which features are on, one SAE on each toy model.

    Every way is read at the alpha and threshold that are best on 1,000 inputs, and tested on
    2,000 others.
    """
    for case, (sizes, *_) in CASES.items():
        for m, model in toy_models(*sizes).items():
            told, saes = one_layer(model), {name: of[m][0] for name, of in saes_of(case).items()}
            norms, sets = model.feature_directions.norm(dim=1), []
            for n, seed in ((1_000, m + 2_000), (2_000, m + 3_000)):
                features, x = data(model, n, seed)
                is_on = fires(features * norms).numpy()
                sets.append((ways_to_read(x, model, told, saes), is_on))
            (ways, is_on), (new_ways, new_is_on) = sets
            for method, (_, alpha, threshold) in best_settings(ways, is_on).items():
                f1 = f1_at(*new_ways[method, alpha], new_is_on, threshold)
                about = {"case": case, "method": method, "toy_model": m}
                yield about | {"alpha": alpha, "threshold": threshold, "f1": f1}

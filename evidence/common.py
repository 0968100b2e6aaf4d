"""What every experiment needs: base models whose features are real, data, SAEs, scores, files."""

import json
import time
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from sae_lib import (
    SparseAutoencoder,
    TopKSparseAutoencoder,
    ToyModel,
    agreement,
    cosine_similarity_matrix,
    fvu,
    l0,
    live_directions,
    match_features,
    train_saes,
    train_toy_models,
)

DATA = Path(__file__).parent / "data"
RECOVERED = 0.99
N_MODELS, FIRST_MODEL_SEED = 3, 300  # seeds that no search for settings has seen
SAE_SEEDS = list(range(16))
# a price that falls, with batches of 256 (sae_lib.FALLING_PRICE has 2,500 of 128)
FALLING = {"l1_start": 0.03, "n_steps": 2_000, "lr": 0.05, "betas": (0.9, 0.95)}
CROWDED = {"n_steps": 2_000, "lr": 0.03, "betas": (0.9, 0.98)}  # the recipe of the crowded cases


@cache
def base_models(n_features: int, n_hidden: int, sparsity: float, kind: type = ToyModel) -> dict:
    """{seed: model}: the first three that gave every feature a direction longer than 0.9."""
    seeds = range(FIRST_MODEL_SEED, FIRST_MODEL_SEED + 2 * N_MODELS)
    models = [kind(n_features, n_hidden, sparsity, seed=seed) for seed in seeds]
    train_toy_models(models, seeds=seeds)
    shortest = [model.feature_directions.norm(dim=1).min().item() for model in models]
    passed = [i for i, length in enumerate(shortest) if length > 0.9][:N_MODELS]
    skipped = [seeds[i] for i in range(passed[-1]) if i not in passed]
    print(
        f"{n_features} in {n_hidden}: {[seeds[i] for i in passed]}, skipped {skipped}", flush=True
    )
    return {seeds[i]: models[i] for i in passed}


@torch.no_grad()
def data(model: ToyModel, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n inputs: how far each feature moved the activation (n, n_features), and activations."""
    features = model.sample_features(n, seed=seed)
    return features * model.feature_directions.norm(dim=1), model.encode(features)


def pool_and_test(model: ToyModel, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """50,000 activations to train on, and 10,000 others to look at."""
    return data(model, 50_000, seed)[1], data(model, 10_000, seed + 1_000)[1]


def train(
    pool: torch.Tensor, d_sae: int, *, l1: float = 0.0, k: int = 0, seeds=SAE_SEEDS, **recipe
) -> list[SparseAutoencoder]:
    """One SAE for each seed, trained at once on one pool: at price l1, or TopK if k is given."""
    d_in = pool.shape[1]
    if k:
        saes = [TopKSparseAutoencoder(d_in, d_sae, k=k, seed=seed) for seed in seeds]
    else:
        saes = [SparseAutoencoder(d_in, d_sae, seed=seed) for seed in seeds]
    train_saes(saes, pool, l1_coefficient=l1, seeds=seeds, n_logged=2, **recipe)
    return saes


def matched(sae: SparseAutoencoder, model: ToyModel):
    """The latent of each feature, and its cosine."""
    return match_features(cosine_similarity_matrix(sae.W_dec, model.feature_directions))


def n_recovered(directions: torch.Tensor, truth: torch.Tensor) -> int:
    """How many features have a direction of their own at cosine 0.99 or more."""
    cosines = match_features(cosine_similarity_matrix(directions, truth)).cosine
    return int((cosines >= RECOVERED).sum())


@torch.no_grad()
def scores(saes: list, model: ToyModel, x: torch.Tensor) -> dict:
    """For each SAE: features recovered, L0, FVU, live latents; and the seeds' mean agreement."""
    live = [live_directions(sae, x) for sae in saes]
    outputs = [sae(x) for sae in saes]
    agreed = [agreement(a, b) for a, b in combinations(live, 2)]
    return {
        "recovered": [n_recovered(sae.W_dec, model.feature_directions) for sae in saes],
        "l0": rounded(l0(acts) for _, acts in outputs),
        "fvu": [float(f"{fvu(x, x_hat):.3g}") for x_hat, _ in outputs],
        "live": [len(directions) for directions in live],
        "agreement": round(float(np.mean(agreed)), 3) if agreed else None,
    }


def rounded(values) -> list[float]:
    return [round(float(value), 3) for value in values]


def save(name: str, settings: dict, rows: list[dict], started: float) -> None:
    """Write data/<name>.json: the settings, then one line for each row."""
    head = json.dumps({"settings": settings, "cpu_seconds": round(time.process_time() - started)})
    lines = ",\n".join(json.dumps(row) for row in rows)
    (DATA / f"{name}.json").write_text(f'{head[:-1]}, "rows": [\n{lines}\n]}}\n', encoding="utf-8")


def load(name: str) -> dict:
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))

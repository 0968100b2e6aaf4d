"""What every experiment needs: toy models whose features are real, SAEs, scores, files.

An experiment is a function that yields rows: one setting on one toy model, with a list that
holds a result for each SAE seed. What stands before `toy_model` in a row is the setting. All SAEs
of a setting are trained at once, on the same batches: their seeds are their starts.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from sae_lib.many import train_saes, train_toy_models
from sae_lib.metrics import agreement, fvu, l0, live_directions, recovered
from sae_lib.sae import SparseAutoencoder, TopKSparseAutoencoder
from sae_lib.toy_model import ToyModel
from sae_lib.training import TrainingHistory

DATA = Path(__file__).parent / "data"
EDITION = 4  # of the lesson; the third trained each SAE of a stack on batches of its own
N_MODELS, FIRST_MODEL_SEED = 3, 300  # seeds that no search for settings has seen
SAE_SEEDS = range(16)
# a constant price, or TopK: the learning rate of FALLING_PRICE is too rough for crowded features
CROWDED = {"n_steps": 2_000, "batch_size": 128, "lr": 0.03, "betas": (0.9, 0.98)}
Models = dict[int, ToyModel]  # by their seeds
SAEs = dict[int, list[SparseAutoencoder]]  # by the seeds of their toy models


@cache
def toy_models(n_features: int, n_hidden: int, sparsity: float, kind: type = ToyModel) -> Models:
    """The first three (of twelve) that gave every feature a direction longer than 0.9."""
    passed, seed = {}, FIRST_MODEL_SEED
    while len(passed) < N_MODELS and seed < FIRST_MODEL_SEED + 4 * N_MODELS:
        seeds = range(seed, seed + N_MODELS - len(passed))
        models = [kind(n_features, n_hidden, sparsity, seed=s) for s in seeds]
        train_toy_models(models, seed=seed)
        shortest = [model.feature_directions.norm(dim=1).min() for model in models]
        passed |= {s: m for s, m, n in zip(seeds, models, shortest, strict=True) if n > 0.9}
        seed = seeds.stop
    return passed


def orthogonal_models(n: int, sparsity: float, kind: type = ToyModel) -> Models:
    """Three models of n features at right angles in n dimensions: nothing is crowded."""
    seeds = range(FIRST_MODEL_SEED, FIRST_MODEL_SEED + N_MODELS)
    models = {seed: kind(n, n, sparsity, seed=seed) for seed in seeds}
    for seed, model in models.items():
        torch.nn.init.orthogonal_(model.W, generator=torch.Generator().manual_seed(seed))
    return models


@torch.no_grad()
def data(model: ToyModel, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n inputs: the features (n, n_features) and the activations (n, n_hidden)."""
    features = model.sample_features(n, seed=seed)
    return features, model.encode(features)


def new_saes(
    models: Models, d_sae: int, kind: Callable = SparseAutoencoder, seeds: Sequence = SAE_SEEDS
) -> SAEs:
    """An SAE for each seed on each toy model, not trained yet."""
    d_in = {seed: model.W.shape[0] for seed, model in models.items()}
    return {seed: [kind(d_in[seed], d_sae, seed=s) for s in seeds] for seed in models}


def train(
    models: Models,
    saes: SAEs,
    l1: float = 0.0,
    *,
    pool_of: Callable = lambda model, n, seed: data(model, n, seed)[1],
    n: int = 20_000,
    **recipe,
) -> dict[int, list[TrainingHistory]]:
    """Train the SAEs in place, each on n activations of its model: {toy model: histories}."""
    pools = {m: pool_of(models[m], n, m) for m in saes}
    pools = torch.stack([pools[m] for m, some in saes.items() for _ in some])
    every = [sae for some in saes.values() for sae in some]
    runs = iter(train_saes(every, pools, l1_coefficient=l1, **{"n_logged": 2} | recipe))
    return {m: [next(runs) for _ in some] for m, some in saes.items()}


def trained(
    models: Models, d_sae: int, *, k: int = 0, kind=SparseAutoencoder, seeds=SAE_SEEDS, **recipe
) -> SAEs:
    """New SAEs, trained: TopK if k is given, else at price l1 (in the recipe)."""
    saes = new_saes(models, d_sae, partial(TopKSparseAutoencoder, k=k) if k else kind, seeds)
    train(models, saes, **recipe)
    return saes


@torch.no_grad()
def scores(models: Models, saes: SAEs, *more: Callable, **about) -> Iterator[dict]:
    """A row for each toy model: what it is about, and lists with a number for each SAE.

    Every row has recovered, whether these are all, L0, FVU, live latents, and the seeds' mean
    agreement; `more` are functions (sae, model, features, x) -> {column: number}. All are taken
    on 10,000 new inputs.
    """
    for seed, some in saes.items():
        model = models[seed]
        features, x = data(model, 10_000, seed + 1_000)
        ground_truth = model.feature_directions
        columns = {"recovered": [recovered(sae.W_dec, ground_truth) for sae in some]}
        columns["complete"] = [n == len(ground_truth) for n in columns["recovered"]]
        columns["l0"] = [l0(sae.encode(x)) for sae in some]
        columns["fvu"] = [fvu(x, sae(x)[0]) for sae in some]
        live = [live_directions(sae, x) for sae in some]
        columns["live"] = [len(directions) for directions in live]
        columns["agreement"] = mean_agreement(live)
        for measure in more:
            measured = [measure(sae, model, features, x) for sae in some]
            columns |= {name: [one[name] for one in measured] for name in measured[0]}
        yield about | {"toy_model": seed} | columns


def mean_agreement(dictionaries: list[torch.Tensor]) -> float:
    """The mean of `agreement` over all pairs."""
    return float(np.mean([agreement(a, b) for a, b in combinations(dictionaries, 2)]))


def run(name: str, experiment: Callable[[], Iterator[dict]]) -> None:
    """Write data/<name>.json: the edition, the time it took, then a line for each row."""
    started = time.process_time()
    rows = [json.dumps(rounded(row)) for row in experiment()]
    head = {"edition": EDITION, "cpu_seconds": round(time.process_time() - started)}
    text = f'{json.dumps(head)[:-1]}, "rows": [\n' + ",\n".join(rows) + "\n]}\n"
    (DATA / f"{name}.json").write_text(text, encoding="utf-8")


def rounded(value):
    """Four digits of every number that is not whole, however deep it lies; NaN becomes None."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(one) for one in value]
    if isinstance(value, float):
        return None if np.isnan(value) else float(f"{value:.4g}")
    return value


def load(name: str) -> dict:
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def pooled(name: str, *keys: str) -> dict[tuple, dict[str, np.ndarray]]:
    """{setting: {column: its numbers of all toy models and seeds together}}, as stored.

    keys: the columns that make a setting; without any, all that stand before `toy_model`.
    """
    rows = load(name)["rows"]
    keys = keys or settings_of(rows)
    groups: dict[tuple, dict[str, list]] = {}
    for row in rows:
        group = groups.setdefault(tuple(row.get(key, "") for key in keys), {})
        for column, value in row.items():
            group.setdefault(column, []).extend(value if isinstance(value, list) else [value])
    return {
        key: {column: np.array([v for v in of if v is not None]) for column, of in group.items()}
        for key, group in groups.items()
    }


def settings_of(rows: list[dict]) -> list[str]:
    """The names of the columns that stand before `toy_model`."""
    return list(
        dict.fromkeys(key for row in rows for key in list(row)[: [*row].index("toy_model")])
    )


def markdown(header: Sequence, lines: Sequence[Sequence]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)

"""Is the audit's verdict right where the ground truth is known? 16 matrices of every case.

python -m beyond.check_audit run     # minutes; writes check_audit.jsonl, a line a matrix
python -m beyond.check_audit         # prints the table of what is stored
"""

import json
import sys
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import torch

from beyond.audit import (
    DECIDE,
    best_k,
    better,
    found_again,
    gaussian_look_alike,
    learning_rate,
    look,
    measure,
    prepare,
)
from sae_lib import TopKSparseAutoencoder, ToyModel, recovered, train_saes, train_toy_models

LINES = Path(__file__).with_name("check_audit.jsonl")
N_SEEDS, N_ROWS, N_STEPS = 16, 5_000, 300
Case = Callable[[int, torch.Generator], tuple[torch.Tensor, torch.Tensor | None]]


@cache
def toy_models(n_features: int, n_hidden: int, sparsity: float) -> list[ToyModel]:
    models = [ToyModel(n_features, n_hidden, sparsity, seed=300 + s) for s in range(N_SEEDS)]
    train_toy_models(models, n_steps=1_000)
    return models


def toy(n_features: int, n_hidden: int, sparsity: float, change: Callable | None = None) -> Case:
    """Activations of a trained toy model, and the directions of its features."""

    def case(seed: int, rng: torch.Generator):
        model = toy_models(n_features, n_hidden, sparsity)[seed]
        features = model.sample_features(N_ROWS, seed=1_000 + seed)
        features = features if change is None else change(features, rng)
        return model.encode(features).detach(), model.feature_directions

    return case


def implied(features: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """B, the second feature, is on for half of the rows with A, the first, and never else."""
    half = torch.rand(len(features), generator=rng) < 0.5
    b = torch.rand(len(features), generator=rng) * half * (features[:, 0] > 0)
    return torch.cat([features[:, :1], b[:, None], features[:, 2:]], dim=1)


def rare(features: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Feature i on with a probability in proportion to 1 / i; five of them at a time."""
    chance = 1 / torch.arange(1, features.shape[1] + 1)
    is_on = torch.rand(features.shape, generator=rng) < 5 * chance / chance.sum()
    return torch.rand(features.shape, generator=rng) * is_on


def five_of_twenty(seed: int, rng: torch.Generator):
    """20 features at right angles, five on at a time: with k = 3, too few for them."""
    directions = torch.linalg.qr(torch.randn(20, 20, generator=rng)).Q
    is_on = torch.rand(N_ROWS, 20, generator=rng) < 0.25
    return (torch.rand(N_ROWS, 20, generator=rng) * is_on) @ directions, directions


def noise(d: int, *, correlated: bool = False, lengths: bool = False, rank: int = 0) -> Case:
    """Gaussian noise; correlated by a random map, of some rank; each row longer or shorter."""

    def case(seed: int, rng: torch.Generator):
        x = torch.randn(N_ROWS, rank or d, generator=rng)
        x = x @ torch.randn(rank or d, d, generator=rng) if correlated or rank else x
        return x * (torch.rand(N_ROWS, 1, generator=rng) if lengths else 1), None

    return case


def heavy_tailed(seed: int, rng: torch.Generator):
    """Student's t with three degrees of freedom: correlated noise, each row divided by a length."""
    x, _ = noise(10, correlated=True)(seed, rng)
    return x / torch.randn(N_ROWS, 3, generator=rng).norm(dim=1, keepdim=True), None


def shuffled_10_in_5(seed: int, rng: torch.Generator):
    x, _ = toy(10, 5, 0.9)(seed, rng)
    return torch.stack([c[torch.randperm(N_ROWS, generator=rng)] for c in x.T], dim=1), None


def skewed(seed: int, rng: torch.Generator):
    """Ten independent coordinates, each an exponential variable: the axes are the features."""
    return -torch.rand(N_ROWS, 10, generator=rng).clamp(min=1e-9).log(), torch.eye(10)


def ring(seed: int, rng: torch.Generator):
    """Points on a circle in ten dimensions, with a little noise: structure, and no features."""
    angle = 2 * torch.pi * torch.rand(N_ROWS, 1, generator=rng)
    plane = torch.linalg.qr(torch.randn(10, 2, generator=rng)).Q.T
    x = torch.cat([angle.cos(), angle.sin()], dim=1) @ plane
    return x + 0.1 * torch.randn(N_ROWS, 10, generator=rng), None


# name: (the matrix, ks)
CASES = {
    "10 in 5": (toy(10, 5, 0.9), (1, 2)),
    "15 in 5": (toy(15, 5, 0.95), (1, 2)),
    "100 in 30": (toy(100, 30, 0.95), (2, 4)),
    "10 in 5, one implies another": (toy(10, 5, 0.9, implied), (1, 2)),
    "100 in 30, most are rare": (toy(100, 30, 0.95, rare), (2, 4)),
    "20 in 20, five on, k = 3": (five_of_twenty, (3,)),
    "10 in 5, coordinates shuffled": (shuffled_10_in_5, (1, 2)),
    "skewed coordinates": (skewed, (1, 2)),
    "a ring": (ring, (1, 2)),
    "noise, heavy-tailed": (heavy_tailed, (1, 2)),
    "noise of rank 3 in 10": (noise(10, rank=3), (1, 2)),
}
for d, ks in ((5, (1, 2)), (10, (1, 2)), (20, (2, 4))):
    CASES[f"noise in {d}, isotropic"] = (noise(d), ks)
    CASES[f"noise in {d}, correlated"] = (noise(d, correlated=True), ks)
    CASES[f"noise in {d}, lengths vary"] = (noise(d, lengths=True), ks)
CASES["noise in 20, correlated, lengths vary"] = noise(20, correlated=True, lengths=True), (2, 4)


def check(name: str) -> list[dict]:
    """One line for each seed. As `compare` trains them, but all seeds at once."""
    case, ks = CASES[name]
    matrices = [case(seed, torch.Generator().manual_seed(seed)) for seed in range(N_SEEDS)]
    pools = []
    for seed, (raw, _) in enumerate(matrices):
        train, held_out, *_ = prepare(raw[look(raw)[0]], seed)
        sizes = [len(train), len(held_out)]
        noise = gaussian_look_alike(train, sum(sizes), seed).split(sizes)
        pools.append({"data": (train, held_out), "look-alike": noise})
    d, how = raw.shape[1], {"n_steps": N_STEPS, "n_logged": 2, "lr": learning_rate(raw.shape[1])}
    n = min(len(kinds["data"][0]) for kinds in pools)  # copies are dropped, so sizes differ
    tables, taken = [{} for _ in matrices], [{} for _ in matrices]
    for k in ks:
        fitted = {
            (seed, kind, i): TopKSparseAutoencoder(d, 4 * d, k=k, seed=seed + i)
            for seed, kind, i in product(range(N_SEEDS), DECIDE, (0, 1))
        }
        rows = torch.stack([pools[seed][kind][0][:n] for seed, kind, _ in fitted])
        train_saes(list(fitted.values()), rows, **how)
        for seed, table in enumerate(tables):
            table[k] = {
                kind: measure([fitted[seed, kind, i] for i in (0, 1)], pools[seed][kind][1])
                for kind in DECIDE
            }
            found_again(table[k])
            taken[seed][k] = fitted[seed, "data", 0]
    lines = []
    for seed, (table, (_, truth)) in enumerate(zip(tables, matrices, strict=True)):
        k = best_k(table)
        line = {"case": name, "seed": seed, "structure": all(better(table[k])), "k": k}
        if truth is not None:
            found = recovered(taken[seed][k].W_dec.detach(), truth)
            line |= {"found": found, "features": len(truth)}
        for kind in DECIDE:
            line[kind] = {
                k: [round(v, 4) for v in (*row[kind]["unexplained"], row[kind]["again"])]
                for k, row in table.items()
            }
        lines.append(line)
    return lines


def table() -> str:
    """The stored lines as a Markdown table: means over the seeds, at the k that was chosen."""
    lines = [json.loads(line) for line in LINES.read_text(encoding="utf-8").splitlines()]
    rows = [
        "| | says structure | left unexplained, look-alike | found again, look-alike | found |",
        "|---|---|---|---|---|",
    ]
    for name in CASES:
        of_case = [line for line in lines if line["case"] == name]
        at_k = [[line[kind][str(line["k"])] for kind in DECIDE] for line in of_case]
        left, again = np.split(np.mean(at_k, axis=0), [2], axis=1)  # a row a kind: two seeds, one
        found = [line["found"] for line in of_case if "found" in line]
        cells = [
            f"{sum(line['structure'] for line in of_case)} of {len(of_case)}",
            ", ".join(f"{mean:.2f}" for mean in left.mean(axis=1)),
            ", ".join(f"{100 * mean:.0f} %" for mean in again[:, 0]),
            f"{np.mean(found):.1f} of {of_case[0]['features']}" if found else "",
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    if sys.argv[1:] == ["run"]:
        torch.set_num_threads(1)
        with LINES.open("w", encoding="utf-8") as file:
            for name in CASES:
                file.writelines(json.dumps(line) + "\n" for line in check(name))
    print(table())

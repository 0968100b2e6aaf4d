"""Does a recipe ever fail? Fresh seeds, none of them looked at when the settings were chosen.

    .venv/bin/python -m evidence.seeds                 train what data/seeds.json does not hold yet
    .venv/bin/python -m evidence.seeds falling 80      of one recipe and width (or of one of both)
    .venv/bin/python -m evidence.seeds --table         print what is stored

A line of the file is 50 seeds, trained as one stack: each has a toy model and an SAE of its own. It
is written as soon as it is done, so a run may be stopped and taken up again.
"""

import os

os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it when it is imported

import json
import sys
import time

import torch

from evidence.common import DATA, EDITION, data, markdown
from sae_lib import FALLING_PRICE, SparseAutoencoder, ToyModel, train_saes, train_toy_models
from sae_lib.metrics import cosine_similarity_matrix, match_features

FILE = DATA / "seeds.json"
RECIPES = {"falling": FALLING_PRICE, "constant": {}, "constant 0.003": {"l1_coefficient": 0.003}}
STACK = 50
PARTS = [
    {"edition": EDITION, "recipe": recipe, "d_sae": d_sae, "first_seed": first, "seeds": STACK}
    for d_sae, last in [(20, 22_000), (12, 20_300), (40, 20_300), (80, 20_300), (200, 20_300)]
    for recipe in RECIPES
    for first in range(20_000, last, STACK)
    if recipe != "constant 0.003" or d_sae == 12  # where the lesson's price fails at times
]


def lowest_cosines(recipe: str, d_sae: int, seeds: range) -> dict[int, float | None]:
    """{seed: its lowest matched cosine}: a toy model and an SAE for each seed.

    The toy models are trained more cheaply than the lesson's. None where one did not settle in
    pairs, or left a feature out (the lesson's gate): there the ground truth is another one.
    """
    models = [ToyModel(seed=seed) for seed in seeds]
    train_toy_models(models, seed=seeds[0], n_steps=1_500, batch_size=64)
    pools = torch.stack([data(m, 20_000, seed)[1] for m, seed in zip(models, seeds, strict=True)])
    # a million further on, else W and W_dec start from equal draws
    saes = [SparseAutoencoder(5, d_sae, seed=seed + 1_000_000) for seed in seeds]
    train_saes(saes, pools, seed=seeds[0], n_logged=2, **RECIPES[recipe])
    lowest = {}
    for seed, model, sae in zip(seeds, models, saes, strict=True):
        ground_truth = model.feature_directions
        cosines = match_features(cosine_similarity_matrix(sae.W_dec, ground_truth)).cosine
        others = cosine_similarity_matrix(ground_truth, ground_truth).fill_diagonal_(0)
        in_pairs = ((others.abs() < 0.02) | (others < -0.98)).all()
        settled = in_pairs and ground_truth.norm(dim=1).min() > 0.9
        lowest[seed] = round(float(cosines.min()), 4) if settled else None
    return lowest


def line(part: dict, lowest: dict[int, float | None]) -> dict:
    """One line of the file: how many found all ten, and which seeds did not."""
    found = {seed: cosine for seed, cosine in lowest.items() if cosine is not None}
    missed = {seed: cosine for seed, cosine in found.items() if cosine < 0.99}
    counts = {"complete": len(found) - len(missed), "lowest": min(found.values())}
    counts |= {"incomplete": missed, "not_settled": [seed for seed in lowest if seed not in found]}
    return part | counts


def stored() -> list[dict]:
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else []


def table() -> str:
    """A line for each width: how many found all ten, of the toy models that settled."""
    counts: dict[tuple, tuple] = {}
    for of in [line for line in stored() if line["edition"] == EDITION]:
        key = of["d_sae"], of["recipe"]
        complete, n, lowest = counts.get(key, (0, 0, 1.0))
        settled = of["seeds"] - len(of["not_settled"])
        counts[key] = complete + of["complete"], n + settled, min(lowest, of["lowest"])
    lines = []
    for d_sae in sorted({d_sae for d_sae, _ in counts}):
        cells = [counts.get((d_sae, recipe)) for recipe in RECIPES]
        cells = [f"{c[0]:,} of {c[1]:,}, lowest {least(c[2])}" if c else "" for c in cells]
        lines.append([d_sae, *cells])
    return markdown(
        ["latents", "a price that falls", "constant price", "constant, λ = 0.003"], lines
    )


def least(cosine: float) -> str:
    return "above 0.9999" if cosine == 1 else f"{cosine:.4f}"


def main() -> None:
    torch.set_num_threads(1)
    lines = stored()
    for part in PARTS:
        wanted = set(sys.argv[1:]) <= {part["recipe"], str(part["d_sae"])}
        if not wanted or any(part.items() <= of.items() for of in lines):
            continue
        started, first = time.process_time(), part["first_seed"]
        lowest = lowest_cosines(part["recipe"], part["d_sae"], range(first, first + STACK))
        lines.append(line(part, lowest) | {"cpu_seconds": round(time.process_time() - started)})
        FILE.write_text("[\n" + ",\n".join(map(json.dumps, lines)) + "\n]\n", encoding="utf-8")
        print(lines[-1], flush=True)


if __name__ == "__main__":
    print(table()) if "--table" in sys.argv else main()

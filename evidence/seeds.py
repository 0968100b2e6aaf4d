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

from evidence.common import DATA, data, markdown
from sae_lib import (
    FALLING_PRICE,
    SparseAutoencoder,
    ToyModel,
    cosine_similarity_matrix,
    match_features,
    train_saes,
    train_toy_models,
)

FILE = DATA / "seeds.json"
RECIPES = {"falling": FALLING_PRICE, "constant": {}, "constant 0.003": {"l1_coefficient": 0.003}}
STACK = 50
PARTS = [
    {"recipe": recipe, "d_sae": d_sae, "first_seed": first}
    for d_sae, last in [(20, 22_000), (12, 20_300), (40, 20_300), (80, 20_300), (200, 20_300)]
    for recipe in RECIPES
    for first in range(20_000, last, STACK)
    if recipe != "constant 0.003" or d_sae == 12  # where the lesson's price fails at times
]


def lowest_cosines(recipe: str, d_sae: int, first_seed: int, n: int = STACK) -> list[float | None]:
    """The lowest matched cosine of each seed.

    The toy models are trained more cheaply than the lesson's. None where one did not settle in
    pairs, or left a feature out (the lesson's gate): there the ground truth is another one.
    """
    seeds = range(first_seed, first_seed + n)
    models = [ToyModel(seed=seed) for seed in seeds]
    train_toy_models(models, seed=first_seed, n_steps=1_500, batch_size=64)
    pools = torch.stack([data(m, 20_000, seed)[1] for m, seed in zip(models, seeds, strict=True)])
    # a million further on, else W and W_dec start from equal draws
    saes = [SparseAutoencoder(5, d_sae, seed=seed + 1_000_000) for seed in seeds]
    train_saes(saes, pools, seed=first_seed, n_logged=2, **RECIPES[recipe])
    lowest = []
    for model, sae in zip(models, saes, strict=True):
        ground_truth = model.feature_directions
        cosines = match_features(cosine_similarity_matrix(sae.W_dec, ground_truth)).cosine
        others = cosine_similarity_matrix(ground_truth, ground_truth).fill_diagonal_(0)
        in_pairs = ((others.abs() < 0.02) | (others < -0.98)).all()
        settled = in_pairs and ground_truth.norm(dim=1).min() > 0.9
        lowest.append(round(float(cosines.min()), 4) if settled else None)
    return lowest


def stored() -> list[dict]:
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else []


def counted() -> dict[tuple[str, int], tuple[int, int, float]]:
    """{(recipe, d_sae): (complete, seeds, lowest cosine)}, of toy models that settled."""
    of: dict[tuple[str, int], list[float]] = {}
    for line in stored():
        settled = [cosine for cosine in line["lowest_cosine"] if cosine is not None]
        of.setdefault((line["recipe"], line["d_sae"]), []).extend(settled)
    return {key: (sum(c >= 0.99 for c in all_), len(all_), min(all_)) for key, all_ in of.items()}


def table() -> str:
    counts = counted()

    def cell(recipe: str, d_sae: int) -> str:
        if (recipe, d_sae) not in counts:
            return "not run"
        complete, n, lowest = counts[recipe, d_sae]
        least = "above 0.9999" if lowest == 1 else f"{lowest:.4f}"
        return f"{complete:,} of {n:,}, lowest {least}"

    header = ["latents", "a price that falls", "constant price", "constant, λ = 0.003"]
    widths = sorted({part["d_sae"] for part in PARTS})
    return markdown(header, [[w, *(cell(recipe, w) for recipe in RECIPES)] for w in widths])


def main() -> None:
    torch.set_num_threads(1)
    lines = stored()
    for part in PARTS:
        wanted = set(sys.argv[1:]) <= {part["recipe"], str(part["d_sae"])}
        if not wanted or any(part.items() <= line.items() for line in lines):
            continue
        started, lowest = time.process_time(), lowest_cosines(**part)
        spent = {"cpu_seconds": round(time.process_time() - started)}
        lines.append(part | spent | {"lowest_cosine": lowest})
        FILE.write_text("[\n" + ",\n".join(map(json.dumps, lines)) + "\n]\n", encoding="utf-8")
        print(part, spent, flush=True)


if __name__ == "__main__":
    print(table()) if "--table" in sys.argv else main()

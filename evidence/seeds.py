"""Does a recipe ever fail? Many seeds, none of them looked at when the settings were chosen.

    python -m evidence.seeds                    every part that data/seeds.json does not hold yet
    python -m evidence.seeds falling 80         those of one recipe and width (or of one of both)
    python -m evidence.seeds --list             what is done and what is left

A part is 250 seeds at 20 latents, or 100 at another width. Each finished part is added to the file
at once, so that a run may be stopped and taken up again, and several may run side by side: each
takes the parts that nobody has begun. One thread each.
"""

import os

os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it when it is imported

import argparse
import json
import time
from pathlib import Path

import torch

from sae_lib import (
    FALLING_PRICE,
    SparseAutoencoder,
    ToyModel,
    cosine_similarity_matrix,
    match_features,
    train_saes,
    train_toy_models,
)
from sae_lib.saving import write_file

FILE = Path(__file__).parent / "data" / "seeds.json"
RECIPES = {"falling": FALLING_PRICE, "constant": {}, "constant 0.003": {"l1_coefficient": 0.003}}
STACK = 50  # seeds trained together
PARTS = [
    (recipe, d_sae, first, size)
    for d_sae, last, size in [(20, 22_000, 250), *((w, 20_300, 100) for w in (12, 40, 80, 200))]
    for recipe in RECIPES
    for first in range(20_000, last, size)
    if recipe != "constant 0.003" or d_sae == 12  # where the lesson's price fails at times
]


def lowest_cosines(recipe: str, d_sae: int, seeds: range, **settings) -> dict[int, float | None]:
    """{seed: its lowest matched cosine}: a base model and an SAE for each seed.

    The base models are trained more cheaply than the lesson's. None where one did not settle in
    pairs, or left a feature out (the lesson's gate): there the truth is another one.
    """
    models = [ToyModel(seed=seed) for seed in seeds]
    train_toy_models(models, seeds=seeds, n_steps=1_500, batch_size=64)
    with torch.no_grad():
        pools = [
            m.encode(m.sample_features(20_000, seed=s)) for m, s in zip(models, seeds, strict=True)
        ]
    others = [seed + 1_000_000 for seed in seeds]  # else W and W_dec start from equal draws
    saes = [SparseAutoencoder(5, d_sae, seed=seed) for seed in others]
    recipe = RECIPES[recipe] | settings
    train_saes(saes, torch.stack(pools), seeds=others, n_logged=2, **recipe)
    lowest = {}
    for seed, model, sae in zip(seeds, models, saes, strict=True):
        truth = model.feature_directions
        cosines = match_features(cosine_similarity_matrix(sae.W_dec, truth)).cosine
        others_cosines = cosine_similarity_matrix(truth, truth).fill_diagonal_(0)
        in_pairs = ((others_cosines.abs() < 0.02) | (others_cosines < -0.98)).all()
        settled = in_pairs and truth.norm(dim=1).min() > 0.9
        lowest[seed] = round(float(cosines.min()), 4) if settled else None
    return lowest


def run_part(recipe: str, d_sae: int, first: int, size: int, **settings) -> dict:
    """One line of the file."""
    started, lowest = time.process_time(), {}
    for start in range(first, first + size, STACK):
        stop = min(start + STACK, first + size)
        lowest |= lowest_cosines(recipe, d_sae, range(start, stop), **settings)
    found = {seed: cosine for seed, cosine in lowest.items() if cosine is not None}
    return {
        "recipe": recipe,
        "d_sae": d_sae,
        "first_seed": first,
        "seeds": size,
        "complete": sum(cosine >= 0.99 for cosine in found.values()),
        "lowest": min(found.values()),
        "incomplete": {seed: cosine for seed, cosine in found.items() if cosine < 0.99},
        "base_model_not_settled": [seed for seed in lowest if seed not in found],
        "cpu_seconds": round(time.process_time() - started),
    }


def stored() -> dict[tuple, dict]:
    """{part: its line}"""
    lines = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else []
    return {tuple(x[k] for k in ("recipe", "d_sae", "first_seed", "seeds")): x for x in lines}


def store(line: dict) -> None:
    """Add a line to the file, one process at a time."""
    part = line["recipe"], line["d_sae"], line["first_seed"], line["seeds"]
    lock = FILE.with_name("seeds.json.begun")
    for _ in range(600):
        try:
            lock.touch(exist_ok=False)
            break
        except FileExistsError:
            time.sleep(0.1)
    else:
        raise TimeoutError(f"{lock.name} is a minute old; if no other run writes, remove it")
    try:
        lines = stored() | {part: line}
        rows = ",\n".join(json.dumps(lines[part]) for part in PARTS if part in lines)
        write_file(FILE, f"[\n{rows}\n]\n".encode())
    finally:
        lock.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("only", nargs="*", help="a recipe, a width, or both")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for part in PARTS:
        recipe, d_sae, first, _ = part
        if not set(arguments.only) <= {recipe, str(d_sae)}:
            continue
        if arguments.list or part in stored():
            print(*part, stored().get(part, "left"), flush=True)
            continue
        claim = FILE.with_name(f"seeds-{recipe}-{d_sae}-{first}.begun")
        try:
            claim.touch(exist_ok=False)
        except FileExistsError:
            print(*part, f"begun elsewhere; if it was stopped, remove {claim.name}", flush=True)
            continue
        try:
            store(run_part(*part))
        finally:
            claim.unlink()
        print(*part, stored()[part], flush=True)


if __name__ == "__main__":
    main()

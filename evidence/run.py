"""Make experiments again and store them in data/, or print what is stored. One thread.

.venv/bin/python -m evidence.run NAME ...            make these again
.venv/bin/python -m evidence.run --table [NAME ...]  print these, or all
"""

import os

os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it when it is imported

import argparse
import warnings

import torch
from sklearn.exceptions import ConvergenceWarning

from evidence import baselines, crowded, easy, failures, pages
from evidence.common import load, markdown, pooled, run, settings_of

# name: what makes its numbers (its docstring says what they are), and the lesson's page of them
EXPERIMENTS = {
    "switch": (easy.switch, pages.switch),
    "patience": (easy.patience, pages.patience),
    "width": (easy.width, pages.width),
    "phase": (crowded.phase, pages.phase),
    "baselines": (baselines.baselines, pages.baselines),
    "map": (crowded.crowded_map, pages.crowded_map),
    "cost": (crowded.cost, pages.cost),
    "choosing_k": (failures.choosing_k, pages.choosing_k),
    "reading": (baselines.reading, pages.reading),
    "absorption": (failures.absorption, pages.absorption),
    "matryoshka": (failures.matryoshka, pages.matryoshka),
    "rare": (failures.rare, pages.rare),
}


def page(name: str) -> str:
    """The Markdown of one of the lesson's tables or figures."""
    return EXPERIMENTS[name][1]()


def table(name: str) -> str:
    """All of a stored experiment: a line for each setting, with means over toy models and seeds.

    n is the number of SAEs, and complete how many of them found every feature.
    """
    rows, groups = load(name)["rows"], pooled(name)
    settings = settings_of(rows)
    every = dict.fromkeys(column for group in groups.values() for column in group)
    columns = [c for c in every if c not in (*settings, "toy_model")]
    lines = []
    for key, group in groups.items():
        means = [f"{group[c].mean():.3g}" if len(group.get(c, ())) else "" for c in columns]
        if "complete" in columns:
            means[columns.index("complete")] = str(group["complete"].sum())
        lines.append([*key, max(map(len, group.values())), *means])
    return markdown([*settings, "n", *columns], lines)


def main() -> None:
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(EXPERIMENTS))
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(EXPERIMENTS):
        parser.error(f"expected names of {', '.join(EXPERIMENTS)}, got {', '.join(unknown)}.")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)  # float32 cannot reach that tolerance
    for name in arguments.names or (EXPERIMENTS if arguments.table else ()):
        experiment, _ = EXPERIMENTS[name]
        if not arguments.table:
            run(name, experiment)
        about, stored = " ".join(experiment.__doc__.split()), load(name)
        made = f"Edition {stored['edition']}, {stored['cpu_seconds']} CPU seconds."
        print(f"## {name}\n\n{about} {made}\n\n{table(name)}\n")


if __name__ == "__main__":
    main()

"""Print the tables of the stored results: `python -m experiments.tables [name ...]`. A second.

`python -m experiments.tables > experiments/tables.md` keeps them readable without Python.
Every number is over all SAE seeds of all base models (the column n), unless it says otherwise.
"""

import sys
from collections.abc import Callable

import numpy as np

from experiments.common import DATA, load


def mean(column: str, digits: int = 2) -> Callable:
    return lambda group: f"{np.mean(group[column]):.{digits}f}"


def count(column: str, wanted: Callable) -> Callable:
    return lambda group: str(sum(map(wanted, group[column])))


def runs(column: str = "recovered") -> Callable:
    return lambda group: str(len(group[column]))


def small(column: str) -> Callable:
    return lambda group: f"{np.median(group[column]):.1g}"


def complete(n: int | None = None) -> Callable:
    """How many runs found all n features (by default as many as the row says)."""
    return lambda g: str(sum(r == (n or g["n_features"][0]) for r in g["recovered"]))


COSINES = ["cos(B's, A)", "cos(B's, B)", "cos(B's, A+B)", "cos(A's, A)", "best cos with A+B"]
FAMILY = ["P", "C1", "C2", "P+C1", "P+C2"]
EASY = {"n": runs(), "recovered": mean("recovered", 1), "complete": complete(10)}
ROLES = {
    "live": mean("live", 1),
    "always on": mean("always_on"),
    "runs with some always on": count("always_on", bool),
    "dead": mean("dead", 1),
    "twins": mean("twins"),
}
QUALITY = {"L0": mean("l0"), "FVU": small("fvu"), "agreement": mean("agreement")}

# name: (what a line of the table is about, {heading: a function of all its runs})
TABLES = {
    "map": (
        ("n_features", "l1", "k"),
        {
            "n": runs(),
            "share recovered": lambda g: f"{np.mean(g['recovered']) / g['n_features'][0]:.2f}",
            "complete": complete(),
            "L0": mean("l0"),
            "true L0": mean("true_l0"),
            "FVU": small("fvu"),
            "live": mean("live", 1),
            "agreement": mean("agreement"),
        },
    ),
    "spares": (
        ("n_features", "l1", "k"),
        {"n": runs(), "complete": complete(), "live": mean("live", 1)}
        | {name: mean(name, 1) for name in ("twins", "sums", "others")}
        | {"agreement": mean("agreement")}
        | {"of those that fire on 1 %": mean("agreement of latents that fire on 1 %")},
    ),
    "objective": (
        ("n_features", "l1"),
        {
            f"{what}, {name}": mean(f"{what}, {name}", 4 if what == "loss" else 2)
            for name in ("trained", "truth", "from the truth")
            for what in ("found", "loss", "L0", "FVU")
        },
    ),
    "widths": (("d_sae",), EASY | ROLES | QUALITY),
    "trap": (("what",), EASY | ROLES),
    "twins": (("d_sae", "l1"), EASY | ROLES | QUALITY),
    "loudness": (("d_sae", "encoder at the start times"), EASY | ROLES),
    "implied": (
        ("values", "share with B", "setting"),
        EASY
        | {name: mean(name) for name in COSINES}
        | {
            name: mean(name)
            for name in ("A's fires, only A", "A's fires, only A and B", "agreement")
        },
    ),
    "family": (
        ("children", "d_sae", "setting"),
        EASY | {f"cos {t}": mean(f"best cos with {t}") for t in FAMILY},
    ),
    "rivals": (
        ("case", "method"),
        {
            "n": runs(),
            "recovered": mean("recovered", 1),
            "lowest": lambda g: str(min(g["recovered"])),
            "CPU s each": mean("cpu_seconds_each", 1),
        },
    ),
    "reading": (
        ("case", "method"),
        {"n": runs("f1"), "F1": mean("f1"), "F1 at 0.01": mean("f1 at 0.01")},
    ),
    "encoding": (
        ("case",),
        {"SAE, s per million": mean("sae"), "lasso, s per million": mean("lasso, scaled", 0)},
    ),
    "linear": (
        ("d_sae", "falling"),
        EASY
        | {"axes": mean("axes", 1), "axes with both signs": mean("both_signs", 1)}
        | {"latents on a feature": mean("aligned", 1), "L0": mean("l0", 1)}
        | {"kept their side": lambda g: f"{sum(g['kept_sign']) / max(1, sum(g['aligned'])):.2f}"},
    ),
    "frozen": (
        ("d_sae", "l1", "frozen"),
        EASY
        | {"mean cosine": mean("mean_cosine"), "FVU": small("fvu"), "L0": mean("l0", 1)}
        | {name: mean(name) for name in ("f1", "best_f1")},
    ),
    "flattery": (
        ("base_model",),
        {name: mean(name, 3) for name in ("rows", "mean best absolute cosine", "recovered")},
    ),
}


def pooled(rows: list[dict], keys: tuple) -> dict[tuple, dict]:
    """{line: {column: the values of all its rows}}, in the order in which the lines come up."""
    groups: dict[tuple, dict] = {}
    for row in rows:
        group = groups.setdefault(tuple(row.get(key, "") for key in keys), {})
        for column, value in row.items():
            group.setdefault(column, []).extend(value if isinstance(value, list) else [value])
    return groups


def table(name: str) -> str:
    """The Markdown table of one stored experiment."""
    keys, columns = TABLES[name]
    lines = [" | ".join([*keys, *columns]), " | ".join(["---"] * (len(keys) + len(columns)))]
    for line, group in pooled(load(name)["rows"], keys).items():
        cells = [make(group) if has_data(make, group) else "" for make in columns.values()]
        lines.append(" | ".join([*map(str, line), *cells]))
    return "\n".join(f"| {line} |" for line in lines)


def has_data(make: Callable, group: dict) -> bool:
    try:
        make(group)
    except KeyError:  # a column that this line lacks, such as the time of an SAE among rivals
        return False
    return True


def report(names: list[str]) -> str:
    parts = [f"## {name}\n\nSettings: {load(name)['settings']}\n\n{table(name)}" for name in names]
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(report(sys.argv[1:] or [n for n in TABLES if (DATA / f"{n}.json").exists()]))

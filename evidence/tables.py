"""Print the experiments that are stored: `python -m evidence.tables [NAME ...]`. A second.

A line is one setting, n its SAEs on all base models together, and a number the mean over them;
complete is how many of them found every feature.
`python -m evidence.tables > evidence/tables.md` keeps the tables readable without Python.
"""

import sys

import numpy as np

from evidence.common import load

# what a line of each table is about; every other column is a result
KEYS = {
    "widths": ("d_sae",),
    "start": ("d_sae", "factor"),
    "linear": ("d_sae",),
    "splice": ("what",),
    "switch": ("phase", "l1"),
    "phase": ("d", "n_features", "l1", "k"),
    "map": ("n_features", "l1", "k"),
    "cost": ("l1",),
    "baselines": ("case", "method"),
    "reading": ("case", "method"),
    "implied": ("setting",),
    "absorption": ("setting",),
    "joint": ("l1",),
    "matryoshka": ("kind",),
    "rare": ("exponent", "n_steps"),
    "l0_too_low": ("k",),
}


def pooled(name: str, *keys: str) -> dict[tuple, dict[str, np.ndarray]]:
    """{values of the keys: {column: its numbers of all base models and seeds together}}

    In the order in which they are stored; by default the keys of the experiment's table.
    """
    groups: dict[tuple, dict[str, list]] = {}
    for row in load(name)["rows"]:
        group = groups.setdefault(tuple(row.get(key, "") for key in keys or KEYS[name]), {})
        for column, value in row.items():
            group.setdefault(column, []).extend(value if isinstance(value, list) else [value])
    return {
        key: {column: np.array([v for v in of if v is not None]) for column, of in group.items()}
        for key, group in groups.items()
    }


def markdown(header: list, lines: list[list]) -> str:
    lines = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def table(name: str) -> str:
    """The Markdown table of one stored experiment."""
    groups = pooled(name)
    every = dict.fromkeys(column for group in groups.values() for column in group)
    columns = [c for c in every if c not in (*KEYS[name], "base_model")]
    lines = []
    for key, group in groups.items():
        n = max(len(values) for values in group.values())
        lines.append([*key, n, *(cell(c, group[c]) if c in group else "" for c in columns)])
    return markdown([*KEYS[name], "n", *columns], lines)


def cell(column: str, values: np.ndarray) -> str:
    if column == "complete":
        return str(values.sum())
    return f"{values.mean():.3g}" if len(values) else ""


def report(names: list[str]) -> str:
    parts = []
    for name in names:
        stored = load(name)
        about = f"{stored['about']} ({stored['cpu_seconds']} CPU seconds.)"
        parts.append(f"## {name}\n\n{about}\n\n{table(name)}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(report(sys.argv[1:] or list(KEYS)))

"""How far the numbers of notebooks move when their starting weights move by one in a million.

    python tests/moved_starts.py [--n 16] [--seed 0] [NOTEBOOK ...]

That is what another processor's rounding does to them, as training is chaotic. Prints, for each
cell, the word before a number that moved or that the cell declares as measured: what is saved,
the least and the most of the runs, and twice the largest change, which is the tolerance to declare
(tests/measured.py). Exits with an error if a run shows what the comparison does not allow.
"""

import argparse
import inspect
import re
import sys
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests import run_alone
from tests.measured import NUMBER, declared, places, shown, value
from tools.run_notebook import LESSONS


def move_starts(seed: int) -> None:
    """From now on what torch.randn draws is moved by one part in a million, alike each time."""
    import torch

    randn = torch.randn

    def moved(*size, **options):
        drawn = randn(*size, **options)
        noise = randn(drawn.shape, generator=torch.Generator().manual_seed(seed))
        return drawn * (1 + 1e-6 * noise).to(drawn)

    torch.randn = moved


def run(path: Path, seed: int) -> nbformat.NotebookNode:
    """The notebook after a run on its own, with its starts moved."""
    return run_alone.run(path, before=f"{inspect.getsource(move_starts)}\nmove_starts({seed})")


def spread(cell: nbformat.NotebookNode, texts: list[str]) -> list[str]:
    """A line for each word of a cell whose numbers moved, or that it declares as measured."""
    saved, rows, lines = shown(cell.outputs), {}, []
    same = [text for text in texts if re.split(NUMBER, text) == re.split(NUMBER, saved)]
    if len(same) < len(texts):
        lines.append(f"{cell.id}: other words in {len(texts) - len(same)} runs")
    for i, number in enumerate(re.finditer(NUMBER, saved)):
        values = [value(re.findall(NUMBER, text)[i]) for text in same] or [value(number[0])]
        change = max(abs(x - value(number[0])) for x in values)
        ends = {end: word for word in declared(cell) for _, end in places(word, saved)}
        line = saved[: number.start()].rpartition("\n")[2]
        word = ends.get(number.end(), f"NOT DECLARED: {line[-30:]}")
        if change or number.end() in ends:
            rows.setdefault(word, []).append((change, number[0], min(values), max(values)))
    for word, numbers in rows.items():
        moved = ", ".join(f"{at} ({least:g} to {most:g})" for _, at, least, most in numbers)
        lines.append(f"{cell.id}: {word}: {moved}: ±{2 * max(numbers)[0]:.3g}")
    return lines


def report(path: Path, seeds: range) -> str:
    """Run it with each seed and print the spread; returns what the comparison does not allow."""
    saved, runs, wrong = nbformat.read(path, as_version=4), [], []
    run_alone.compared(saved, saved)  # raises at once if a cell declares what it does not show
    for seed in seeds:
        runs.append(run(path, seed))
        if found := run_alone.compared(saved, runs[-1]):
            wrong.append(f"{path.name}, moved by seed {seed}: {found}")
    for i, cell in enumerate(saved.cells):
        if not run_alone.ignored(cell):
            for line in spread(cell, [shown(now.cells[i].outputs) for now in runs]):
                print(line)
    return "\n".join(wrong)


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, default=LESSONS)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0, help="of the first run; the next has 1 more")
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.n)
    return "\n".join(report(path, seeds) for path in arguments.notebooks).strip()


if __name__ == "__main__":
    sys.exit(main() or 0)

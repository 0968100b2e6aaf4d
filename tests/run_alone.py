"""Run notebooks as a lone upload would: one file, an empty folder, no network.

    python tests/run_alone.py [--python PYTHON] [--moved N] [--seed SEED] [NOTEBOOK ...]

PYTHON is the interpreter whose packages the notebook may use (this one by default). Exits with an
error if a cell fails or shows something else than what is saved (see tests/measured.py). The
environment is passed on, for PYTHONOPTIMIZE=1 (no asserts) or the arithmetic of another processor
(MKL_CBWR=AVX2, ATEN_CPU_CAPABILITY=default).

--moved N: N runs, each with its starting weights moved by one in a million, which is what another
processor's rounding does, as training is chaotic. Prints for each number that a cell declares as
measured what is saved, the least and the most of the runs, and twice the largest change, which is
the tolerance to declare.
"""

import argparse
import inspect
import os
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.measured import declared, differences, places, shown, value
from tools.run_notebook import LESSONS, execute, verdict


def no_network() -> None:
    """From now on this process reaches no other machine."""
    import socket

    def here_only(function, place):
        def checked(*arguments, **options):
            where = arguments[place][0] if place else arguments[0]
            if where not in (None, "", "127.0.0.1", "::1", "localhost"):
                raise OSError(f"no network in this test: {where}")
            return function(*arguments, **options)

        return checked

    socket.socket.connect = here_only(socket.socket.connect, 1)
    socket.getaddrinfo = here_only(socket.getaddrinfo, 0)


def move_starts(seed: int) -> None:
    """From now on what torch.randn draws is moved by one part in a million, alike each time."""
    import torch

    randn = torch.randn

    def moved(*size, **options):
        drawn = randn(*size, **options)
        noise = randn(drawn.shape, generator=torch.Generator().manual_seed(seed))
        return drawn * (1 + 1e-6 * noise).to(drawn)

    torch.randn = moved


def run(path: Path, python: Path, seed: int | None) -> nbformat.NotebookNode:
    """The notebook after a run on its own; with a seed, its starts are moved."""
    before = f"{inspect.getsource(no_network)}\nno_network()\n"
    if seed is not None:
        before += f"{inspect.getsource(move_starts)}\nmove_starts({seed})"
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(path, folder)
        execute(notebook, folder, python, before)
    return notebook


def compared(saved: list, now: list) -> str:
    """What differs, cell by cell; empty if all agrees."""
    found = []
    for cell, ran in zip(saved, now, strict=True):
        if lines := differences(cell, ran.outputs):
            found += [f"cell {cell.id}:", *lines]
    return "\n".join(found)


def spread(cell: nbformat.NotebookNode, runs: list[nbformat.NotebookNode]) -> list[str]:
    """A line for each word that a cell declares as measured."""
    lines, texts = [], [shown(one.outputs) for one in (cell, *runs)]
    for word in declared(cell):
        found = [[value(text[i:j]) for i, j in places(word, text)] for text in texts]
        for saved, *moved in zip(*found, strict=False):
            change = max(abs(x - saved) for x in moved)
            ends = f"{min(moved):g} to {max(moved):g}"
            lines.append(f"{cell.id}: {word}: {saved:g} ({ends}): ±{2 * change:.3g}")
    return lines


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, default=LESSONS)
    parser.add_argument("--python", type=Path, default=sys.executable)
    parser.add_argument("--moved", type=int, default=0)
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first move; the next has 1 more"
    )
    arguments = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    moves = range(arguments.seed, arguments.seed + arguments.moved) or [None]
    wrong = []
    for path in arguments.notebooks:
        # a cell that shows nothing, or what differs by intent, as nbval's tag says, is left out
        cells, runs = nbformat.read(path, as_version=4).cells, []
        kept = [i for i, cell in enumerate(cells) if cell.get("outputs")
                and "nbval-ignore-output" not in cell.metadata.get("tags", [])]  # fmt: skip
        saved = [cells[i] for i in kept]
        for seed in moves:
            now = run(path, Path(arguments.python).absolute(), seed)  # it starts elsewhere
            which = "" if seed is None else f" moved by seed {seed}"
            print(f"{path.name}{which}: {verdict(now).partition(chr(10))[0]}", flush=True)
            runs.append([now.cells[i] for i in kept])
            if found := compared(saved, runs[-1]):
                wrong.append(f"{path.name}{which}:\n{found}")
        if arguments.moved:
            for cell, *ran in zip(saved, *runs, strict=True):
                for line in spread(cell, ran):
                    print(line)
    return "\n".join(wrong)


if __name__ == "__main__":
    sys.exit(main() or 0)

"""Run notebooks as a lone upload would: one file, an empty folder, no network.

    python tests/run_alone.py [--python PYTHON] [NOTEBOOK ...]

PYTHON is the interpreter whose packages the notebook may use (this one by default). Exits with an
error if a cell fails or shows something else than what is saved (see tests/measured.py). The
environment is passed on, for PYTHONOPTIMIZE=1 (no asserts) or the arithmetic of another processor
(MKL_CBWR=AVX2, ATEN_CPU_CAPABILITY=default).
"""

import argparse
import inspect
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.measured import differences
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


def run(path: Path, python: str = sys.executable, before: str = "") -> nbformat.NotebookNode:
    """The notebook after a run on its own."""
    os.environ["TQDM_DISABLE"] = "1"
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(path, folder)
        before = f"{inspect.getsource(no_network)}\nno_network()\n{before}"
        execute(notebook, folder, python, before)
    return notebook


def ignored(cell: nbformat.NotebookNode) -> bool:
    """Whether it shows nothing, or what differs by intent, as nbval's tag says."""
    return not cell.get("outputs") or "nbval-ignore-output" in cell.metadata.get("tags", [])


def compared(saved: nbformat.NotebookNode, now: nbformat.NotebookNode) -> str:
    """What differs, cell by cell; empty if all agrees."""
    found = []
    for cell, ran in zip(saved.cells, now.cells, strict=True):
        if not ignored(cell) and (lines := differences(cell, ran.outputs)):
            found += [f"cell {cell.id}:", *lines]
    return "\n".join(found)


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, default=LESSONS)
    parser.add_argument("--python", default=sys.executable)
    arguments = parser.parse_args()
    wrong = []
    for path in arguments.notebooks:
        start = time.monotonic()
        now = run(path, Path(arguments.python).absolute())  # it starts elsewhere
        seconds, said = time.monotonic() - start, verdict(now).partition("\n")[0]
        print(f"{path.name}: {seconds:.0f} s. {said}", flush=True)
        wrong.append(compared(nbformat.read(path, as_version=4), now))
    return "\n".join(wrong).strip()


if __name__ == "__main__":
    sys.exit(main() or 0)

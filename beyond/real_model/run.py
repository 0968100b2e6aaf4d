"""Run beyond/real_model.ipynb from top to bottom and save it with its outputs.

python beyond/real_model/run.py            what lies in beyond/out already is not computed again
python beyond/real_model/run.py --small    a trial within four minutes: few texts, nothing is saved
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "real_model.ipynb"
SMALL = """
N_TEXTS, LAYER, D_SAE, K, N_STEPS = 200, 2, 128, 8, 60
MIN_TOKENS, N_CARDS, N_HELD_OUT, N_TOPICS, N_WRITTEN = 5, 2, 4, 2, 4
"""


def run(notebook: nbformat.NotebookNode, *, small: bool = False) -> None:
    """Run every cell in place, with progress on the screen and none in the file."""
    os.environ |= {"TQDM_DISABLE": "1"}
    (settings,) = (cell for cell in notebook.cells if cell.id == "settings")
    begun, source = time.perf_counter(), settings.source
    with tempfile.TemporaryDirectory() as folder:
        if small:
            settings.source += f"{SMALL}FOLDER = {folder!r}"
        NotebookClient(
            notebook,
            timeout=None,
            coalesce_streams=True,
            resources={"metadata": {"path": str(NOTEBOOK.parent)}},
            on_cell_start=lambda cell, cell_index: print(
                f"{time.perf_counter() - begun:6.0f} s  cell {cell_index}: {cell.id}", flush=True
            ),
        ).execute()
    settings.source = source
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="a trial; nothing is saved")
    small = parser.parse_args().small
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    run(notebook, small=small)
    if not small:
        nbformat.write(notebook, NOTEBOOK)
        print(f"{NOTEBOOK.name}: {NOTEBOOK.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

"""Run beyond/real_model.ipynb from top to bottom and save it with its outputs.

python beyond/real_model/run.py                  afresh, in a folder that is removed afterwards
python beyond/real_model/run.py --folder DATA    keep activations and checkpoints in DATA; stopped
                                                 and run again, it goes on where it was
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "real_model.ipynb"


def run(notebook: nbformat.NotebookNode, folder: Path, **environment: str) -> None:
    """Run every cell in place, with progress on the screen and none in the file."""
    os.environ.update(environment, REAL_MODEL_FOLDER=str(folder.resolve()), TQDM_DISABLE="1")
    begun = time.perf_counter()
    NotebookClient(
        notebook,
        timeout=None,
        coalesce_streams=True,
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},
        on_cell_start=lambda cell, cell_index: print(
            f"{time.perf_counter() - begun:6.0f} s  cell {cell_index}: {cell.id}", flush=True
        ),
    ).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, help="where activations and checkpoints stay")
    folder = parser.parse_args().folder
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as temporary:
        run(notebook, folder or Path(temporary) / "data")
    nbformat.validate(notebook)
    nbformat.write(notebook, NOTEBOOK)
    print(f"{NOTEBOOK.name}: {NOTEBOOK.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

"""Run the whole lesson without opening it: every cell, with progress, to a page one can read.

    python tools/run_lesson.py [NOTEBOOK]

Prints the verdict and writes the page (NOTEBOOK with the ending .html) to the current folder.
The notebook itself is not changed. Exit status 0 if every cell ran, 1 if one failed.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from tqdm import tqdm
from traitlets.config.loader import PyFileConfigLoader

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    sys.stdout.reconfigure(errors="replace")  # the verdict holds a λ, which not every console can
    path = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "sparse_autoencoders.ipynb")
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.resolve().parent)}}
    client = NotebookClient(notebook, timeout=600, coalesce_streams=True, resources=where)
    failure = None
    with client.setup_kernel(), tqdm(notebook.cells, unit="cell") as bar:
        for i, cell in enumerate(bar):
            if cell.cell_type == "markdown" and cell.source.startswith("## "):
                bar.set_description(cell.source.splitlines()[0].strip("# ")[:40])
            try:
                client.execute_cell(cell, i)
            except CellExecutionError as error:
                failure = error
                break
    page = Path(f"{path.stem}.html")
    config = PyFileConfigLoader(str(ROOT / "docs" / "nbconvert_config.py")).load_config()
    page.write_text(HTMLExporter(config=config).from_notebook_node(notebook)[0], encoding="utf-8")
    if failure:
        print(f"A cell failed: {failure.ename}: {failure.evalue}", file=sys.stderr)
    for cell in notebook.cells:
        if cell.get("id") == "verdict" and cell.outputs and "text" in cell.outputs[0]:
            print(cell.outputs[0].text.strip())
    print(f"The page: {page.resolve()}")
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())

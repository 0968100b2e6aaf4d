"""Bring the notebook up to date: the one command for authors.

    python tools/sync_notebook.py            write the library in, run every cell, clean up
    python tools/sync_notebook.py --no-run   write the library in and clean up only

Cells whose metadata has "sae_lib": ["sae.sae_loss", ...] show those objects' source. The cell
with "sae_lib_embed": true carries the whole package, so that the notebook alone is enough.
Text cells with "sae_lib_figure": "draw_sae" hold that diagram of sae_lib/plots.py.
"""

import argparse
import ast
import base64
import json
import lzma
import os
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from sae_lib import plots  # noqa: E402

plt.rcParams.update(plots.STYLE)
NOTEBOOK = ROOT / "sparse_autoencoders.ipynb"
LIBRARY_LINE = re.compile(r'^LIBRARY = ".*"', re.MULTILINE)


def library_files() -> dict[str, str]:
    """Every module of the package: file name -> text."""
    return {path.name: path.read_text() for path in sorted((ROOT / "sae_lib").glob("*.py"))}


def shown_source(objects: list[str]) -> str:
    """The source of "module.name" objects, as it stands in the library."""
    pieces = []
    for module, name in (o.split(".") for o in objects):
        text = library_files()[f"{module}.py"]
        for node in ast.parse(text).body:
            if getattr(node, "name", None) == name:
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                pieces.append("\n".join(text.splitlines()[first - 1 : node.end_lineno]))
                break
        else:
            raise LookupError(f"sae_lib/{module}.py has no {name}.")
    return "\n\n\n".join(pieces)


def pack(files: dict[str, str]) -> str:
    """The package as one line of text."""
    return base64.b85encode(lzma.compress(json.dumps(files).encode(), preset=9)).decode()


def unpack(source: str) -> dict[str, str]:
    """The package inside the source of the embedding cell."""
    line = LIBRARY_LINE.search(source).group()
    return json.loads(lzma.decompress(base64.b85decode(line.split('"')[1])))


def write_library_in(notebook: nbformat.NotebookNode) -> None:
    """Fill the shown and the embedded code."""
    for cell in notebook.cells:
        if "sae_lib" in cell.metadata:
            cell.source = shown_source(cell.metadata["sae_lib"])
        if "sae_lib_figure" in cell.metadata:
            draw = getattr(plots, cell.metadata["sae_lib_figure"])
            cell.source = f"![{draw.__doc__}]({plots.data_uri(draw())})"
        if cell.metadata.get("sae_lib_embed"):
            packed = f'LIBRARY = "{pack(library_files())}"'
            cell.source = LIBRARY_LINE.sub(packed, cell.source)


def clean(notebook: nbformat.NotebookNode) -> None:
    """Keep only the metadata that belongs to the lesson, and no trace of this run."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        for key in ("execution", "ExecuteTime", "collapsed", "outputId", "colab"):
            cell.metadata.pop(key, None)
        for output in cell.get("outputs", []):
            output.pop("metadata", None) if output.output_type == "stream" else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--no-run", action="store_true", help="do not run the cells")
    arguments = parser.parse_args()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    write_library_in(notebook)
    if not arguments.no_run:
        os.environ["TQDM_DISABLE"] = "1"  # progress bars are for the screen, not for the file
        NotebookClient(
            notebook,
            timeout=600,
            coalesce_streams=True,
            resources={"metadata": {"path": str(ROOT)}},
        ).execute()
    clean(notebook)
    nbformat.validate(notebook)
    nbformat.write(notebook, NOTEBOOK)
    print(f"{NOTEBOOK.name}: {len(notebook.cells)} cells, {NOTEBOOK.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

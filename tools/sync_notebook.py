"""Bring the notebook up to date: the one command for authors.

    python tools/sync_notebook.py            write the library in, run every cell, clean up
    python tools/sync_notebook.py --no-run   write the library in and clean up only

What is generated, by the metadata of a cell:
"sae_lib": ["sae.sae_loss", ...]       shows those objects' source, and lets the library use them
"sae_lib_embed": true                  carries the whole package, so that the notebook is enough
"sae_lib_figure": "draw_sae"           that diagram of sae_lib/lesson/figures.py
"experiment": "map"                    that table or figure of experiments/pages.py
Also sae_lib/lesson/names.py, the table of which section makes which name, and docs/at_a_glance.png,
the picture at the top of the README.
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
os.environ["TQDM_DISABLE"] = "1"  # progress bars are for the screen, not for the file
from experiments.pages import PAGES  # noqa: E402
from sae_lib import (  # noqa: E402
    FALLING_PRICE,
    SparseAutoencoder,
    ToyModel,
    cosine_similarity_matrix,
    match_features,
    plots,
    train_sae,
    train_toy_model,
)
from sae_lib.lesson import figures  # noqa: E402

plt.rcParams.update(plots.STYLE)
NOTEBOOK = ROOT / "sparse_autoencoders.ipynb"
NAMES = ROOT / "sae_lib" / "lesson" / "names.py"
LIBRARY_LINE = re.compile(r'^LIBRARY = ".*"', re.MULTILINE)


def library_files() -> dict[str, str]:
    """Every module of the package: path below sae_lib -> text."""
    package = ROOT / "sae_lib"
    return {
        path.relative_to(package).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(package.rglob("*.py"))
    }


NEW_KERNEL = 'assert "use" in globals(), "This kernel is new: run the cells of section 1 first."'


def shown_source(objects: list[str], first: bool = False) -> str:
    """The source of "module.name" objects as it stands in the library, and the line that makes
    the notebook's copy the living one; before it the help for a new kernel, where a section
    begins with this cell."""
    pieces, names = [NEW_KERNEL] if first else [], []
    for module, name in (o.split(".") for o in objects):
        text = library_files()[f"{module}.py"]
        for node in ast.parse(text).body:
            if getattr(node, "name", None) == name:
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                pieces.append("\n".join(text.splitlines()[first - 1 : node.end_lineno]))
                names.append(name)
                break
        else:
            raise LookupError(f"sae_lib/{module}.py has no {name}.")
    use = f"use({', '.join(names)})  # what you edit here, the library runs too"
    return "\n\n\n".join([*pieces, use])


def pack(files: dict[str, str]) -> str:
    """The package as one line of text."""
    return base64.b85encode(lzma.compress(json.dumps(files).encode(), preset=9)).decode()


def unpack(source: str) -> dict[str, str]:
    """The package inside the source of the embedding cell."""
    line = LIBRARY_LINE.search(source).group()
    return json.loads(lzma.decompress(base64.b85decode(line.split('"')[1])))


def names_made(source: str) -> set[str]:
    """The names that a cell defines or imports at its top level."""
    names, scopes = set(), (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda)
    open_nodes = list(ast.parse(source).body)
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif not isinstance(node, scopes):
            open_nodes.extend(ast.iter_child_nodes(node))
    return names


def made_in(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """For every name of the lesson the heading under which it is made first."""
    place, table = "", {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for title in re.findall(r"(?m)^(?:## |### (?=Break it))(.+)$", cell.source):
                place = title.strip()
        else:
            for name in sorted(names_made(cell.source)):
                table.setdefault(name, place)
    return table


def names_module(table: dict[str, str]) -> str:
    """The text of sae_lib/lesson/names.py."""
    lines = [f"    {json.dumps(n)}: {json.dumps(t, ensure_ascii=False)}," for n, t in table.items()]
    docstring = '"""Which section of the notebook makes which name. Written by its sync tool."""'
    return "\n".join([docstring, "", "MADE_IN: dict[str, str] = {", *lines, "}", ""])


def write_library_in(notebook: nbformat.NotebookNode) -> None:
    """Fill the generated cells, and the table of names."""
    for cell in notebook.cells:
        if "sae_lib" in cell.metadata:
            cell.source = shown_source(cell.metadata["sae_lib"], "sae_lib_first" in cell.metadata)
        if "sae_lib_figure" in cell.metadata:
            draw = getattr(figures, cell.metadata["sae_lib_figure"])
            cell.source = f"![{draw.__doc__}]({figures.data_uri(draw())})"
        if "experiment" in cell.metadata:
            cell.source = PAGES[cell.metadata["experiment"]]()
    NAMES.write_text(names_module(made_in(notebook)), encoding="utf-8")
    for cell in notebook.cells:
        if cell.metadata.get("sae_lib_embed"):
            packed = f'LIBRARY = "{pack(library_files())}"'
            cell.source = LIBRARY_LINE.sub(packed, cell.source)


def draw_at_a_glance(path: Path) -> None:
    """The README's picture: what the neurons show, and what the SAE's latents show."""
    base = ToyModel()
    train_toy_model(base)
    pool = base.encode(base.sample_features(50_000, seed=1)).detach()
    sae = SparseAutoencoder(5, 20, seed=1)
    train_sae(sae, pool, seed=1, **FALLING_PRICE)
    cosines = cosine_similarity_matrix(sae.W_dec, base.feature_directions)
    own = match_features(cosines).latent
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(1, 1))
    plots.plot_matrix(base.W.detach(), left, ylabel="neuron", xlabel="feature", numbers=0.15)
    left.set_title("5 neurons: many features each")
    plots.plot_matrix(
        cosines[own], right, ylabel="latent", xlabel="feature", yticks=own, numbers=0.8
    )
    right.set_title("10 latents: one feature each")
    path.write_bytes(figures.png(fig))


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
        NotebookClient(
            notebook,
            timeout=600,
            coalesce_streams=True,
            resources={"metadata": {"path": str(ROOT)}},
        ).execute()
        draw_at_a_glance(ROOT / "docs" / "at_a_glance.png")
    clean(notebook)
    nbformat.validate(notebook)
    nbformat.write(notebook, NOTEBOOK)
    print(f"{NOTEBOOK.name}: {len(notebook.cells)} cells, {NOTEBOOK.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

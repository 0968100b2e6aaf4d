"""Bring the notebook up to date: the one command for authors.

    python tools/sync_notebook.py            write the library in; run the cells if code changed
    python tools/sync_notebook.py --no-run   write the library in only

What is generated stands below a line that marks it, so that an author can add one in Jupyter:

    # from sae_lib/sae.py: SAELoss, sae_loss     a code cell that shows these objects
    <!-- figure: draw_sae -->                    a picture of tools/pictures.py
    <!-- evidence: map -->                       a table or figure of evidence/pages.py

Also: the library that the folded cell carries, docs/at_a_glance.png, the page docs/playground.html,
and the Colab badge, if pyproject.toml names a repository under [project.urls].
"""

import argparse
import ast
import base64
import hashlib
import json
import lzma
import os
import re
import sys
import tomllib
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import torch
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["TQDM_DISABLE"] = "1"  # progress bars are for the screen, not for the file
from evidence import pages  # noqa: E402
from sae_lib import plots  # noqa: E402
from sae_lib.lesson import figures  # noqa: E402
from tools import pictures  # noqa: E402
from tools.run_lesson import OnePython  # noqa: E402

NOTEBOOK = ROOT / "sparse_autoencoders.ipynb"
SHOWN = re.compile(r"(?m)^# from (sae_lib/\S+\.py): (.+)$")
DRAWN = re.compile(r"(?m)^<!-- (figure|evidence): (\S+) -->$")
LIBRARY = re.compile(r'^LIBRARY = \((\n    ".*")+\n\)', re.MULTILINE)
BADGE = re.compile(r"\[!\[Open in Colab\].*\n\n")


def shown_source(path: str, names: str) -> str:
    """The source of library objects ("SAELoss, sae_loss") as it stands in the library."""
    text = (ROOT / path).read_text(encoding="utf-8")
    nodes = {getattr(node, "name", None): node for node in ast.parse(text).body}
    pieces = []
    for node in (nodes[name] for name in names.split(", ")):
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        pieces.append("\n".join(text.splitlines()[first - 1 : node.end_lineno]))
    return "\n\n\n".join(pieces)


def drawn(kind: str, name: str) -> str:
    """A table or figure of evidence/pages.py, or a picture as a Markdown image."""
    if kind == "evidence":
        return pages.PAGES[name]()
    draw = getattr(pictures, name)
    picture = draw()
    fig, text = picture if isinstance(picture, tuple) else (picture, draw.__doc__.splitlines()[0])
    return pages.picture(fig, text)


def imported(source: str) -> dict[str, list[str]]:
    """{module: names} of what a source imports from sae_lib."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sae_lib":
            found.setdefault(node.module, []).extend(alias.name for alias in node.names)
    return found


def needed_library(notebook: nbformat.NotebookNode) -> dict:
    """What the notebook needs of sae_lib: the names it imports, and the files behind them."""
    names: dict[str, list[str]] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for module, wanted in imported(cell.source).items():
                names[module] = sorted({*names.get(module, []), *wanted})
    files, to_read = {}, ["sae_lib", *names]
    to_read += [f"{module}.{name}" for module, wanted in names.items() for name in wanted]
    while to_read:
        module = ROOT / to_read.pop(0).replace(".", "/")
        paths = [module / "__init__.py", module.with_suffix(".py")]
        for path in (p for p in paths if p.is_file()):
            key = path.relative_to(ROOT).as_posix()
            if key not in files:
                files[key] = path.read_text(encoding="utf-8")
                for other, wanted in imported(files[key]).items():
                    to_read += [other, *(f"{other}.{name}" for name in wanted)]
                to_read.append(".".join(path.relative_to(ROOT).parts[:-1]))  # its package
    page = figures.PLAYGROUND
    files[page.relative_to(ROOT).as_posix()] = page.read_text(encoding="utf-8")
    return {"names": names, "files": dict(sorted(files.items()))}


def pack(library: dict) -> str:
    """The statement that holds the library: VS Code wraps lines of 10,000 into a wall of text."""
    text = base64.b85encode(lzma.compress(json.dumps(library).encode(), preset=9)).decode()
    lines = [f'    "{text[i : i + 8_000]}"' for i in range(0, len(text), 8_000)]
    return "\n".join(["LIBRARY = (", *lines, ")"])


def unpack(source: str) -> dict:
    """The library inside the source of the embedding cell."""
    text = "".join(re.findall('"(.*)"', LIBRARY.search(source).group()))
    return json.loads(lzma.decompress(base64.b85decode(text)))


def write_library_in(notebook: nbformat.NotebookNode) -> None:
    """Fill the generated cells."""
    for cell in notebook.cells:
        for mark, generated, gap in ((SHOWN, shown_source, "\n"), (DRAWN, drawn, "\n\n")):
            if found := mark.search(cell.source):
                cell.source = cell.source[: found.end()] + gap + generated(*found.groups())
    for cell in notebook.cells:
        if LIBRARY.search(cell.source):
            start, end = LIBRARY.search(cell.source).span()
            packed = pack(needed_library(notebook))
            cell.source = cell.source[:start] + packed + cell.source[end:]
    title = notebook.cells[0]
    title.source = badge() + BADGE.sub("", title.source)


def badge() -> str:
    """The line that opens the notebook in Colab; empty as long as no repository is named."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = project.get("urls", {}).get("Repository", "")
    if not repository.startswith("https://github.com/"):
        return ""
    place = repository.removeprefix("https://github.com/").strip("/")
    colab = "https://colab.research.google.com"
    page = f"{colab}/github/{place}/blob/main/{NOTEBOOK.name}"
    return f"[![Open in Colab]({colab}/assets/colab-badge.svg)]({page})\n\n"


def code_hash(notebook: nbformat.NotebookNode) -> str:
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:16]


def run(notebook: nbformat.NotebookNode) -> None:
    """Run every cell, in the interpreter that runs this."""
    settings = {"timeout": 900, "coalesce_streams": True, "kernel_manager_class": OnePython}
    place = {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, resources=place, **settings).execute()


def clean(notebook: nbformat.NotebookNode, ran: str) -> None:
    """Keep only the metadata that belongs to the lesson, and no trace of this run."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {
            "name": "python",
            "file_extension": ".py",
            "mimetype": "text/x-python",
            "nbconvert_exporter": "python",
            "pygments_lexer": "ipython3",
        },
        "outputs_of": ran,  # the code that the saved outputs belong to
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
    torch.set_num_threads(1)
    plt.rcParams.update(plots.STYLE)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    write_library_in(notebook)
    ran, now = notebook.metadata.get("outputs_of", ""), code_hash(notebook)
    if now != ran and not arguments.no_run:
        run(notebook)
        ran = now
        (ROOT / "docs" / "at_a_glance.png").write_bytes(figures.png(pictures.draw_at_a_glance()))
    (ROOT / "docs" / "playground.html").write_bytes(figures.PLAYGROUND.read_bytes())
    clean(notebook, ran)
    nbformat.validate(notebook)
    nbformat.write(notebook, NOTEBOOK)
    print(f"{NOTEBOOK.name}: {len(notebook.cells)} cells, {NOTEBOOK.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

"""Bring the notebooks up to date: the one command for authors.

    python tools/sync_notebook.py            write the library in; run the cells if code changed
    python tools/sync_notebook.py --no-run   write the library in only

What is generated stands below a line that marks it, so that an author can add one in Jupyter:

    # from sae_lib/sae.py: SAELoss, sae_loss     a code cell that shows these objects
    <!-- figure: draw_sae -->                    a picture of tools/pictures.py
    <!-- evidence: map -->                       a table or figure of evidence/run.py

A picture is made again only when what it is drawn from changes (the word behind its name says from
what). Also: the library that a folded cell carries, and the Colab badge, if pyproject.toml names a
repository under [project.urls].
"""

import argparse
import ast
import base64
import hashlib
import inspect
import io
import lzma
import os
import re
import sys
import tarfile
import tomllib
from pathlib import Path

import nbformat
import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["TQDM_DISABLE"] = "1"  # progress bars are for the screen, not for the file
from evidence.run import EXPERIMENTS  # noqa: E402
from sae_lib.lesson import show  # noqa: E402
from tools import pictures  # noqa: E402
from tools.run_notebook import LESSONS, execute  # noqa: E402

SHOWN = re.compile(r"(?m)^# from (sae_lib/\S+\.py): (.+)$")
DRAWN = re.compile(r"(?m)^<!-- (figure|evidence): (\w+) ?(\w*) ?-->$")
LIBRARY = re.compile(r'^LIBRARY = \((\n    ".*")*\n\)', re.MULTILINE)
PICTURE = re.compile(r"base64,[\w+/=]+")
BADGE = re.compile(r"\[!\[Open in Colab\].*\n\n")


def shown_source(path: str, names: str) -> str:
    """The source of library objects ("SAELoss, sae_loss"), with the first lines of docstrings."""
    text = (ROOT / path).read_text(encoding="utf-8")
    nodes = {getattr(node, "name", None): node for node in ast.parse(text).body}
    pieces = []
    for node in (nodes[name] for name in names.split(", ")):
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        lines = text.splitlines()[: node.end_lineno]
        for part in reversed([*ast.walk(node)]):
            if isinstance(part, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(part):
                doc = part.body[0]
                if doc.end_lineno > doc.lineno:
                    lines[doc.lineno - 1 : doc.end_lineno] = [lines[doc.lineno - 1] + '"""']
        pieces.append("\n".join(lines[first - 1 :]))
    return "\n\n\n".join(pieces)


def drawn(kind: str, name: str) -> tuple[str, str]:
    """A table or figure of the evidence, or a picture as a Markdown image; and what it is
    drawn from, in eight letters: the code that draws it, its words, its numbers."""
    if kind == "evidence":
        _, draw = EXPERIMENTS[name]
        text = draw()
    else:
        draw = getattr(pictures, name)
        picture = draw()
        summary = draw.__doc__.splitlines()[0]
        text = show.picture(*(picture if isinstance(picture, tuple) else (picture, summary)))
    origin = [inspect.getsource(inspect.unwrap(draw)), PICTURE.sub("", text)]
    if "stored()" in origin[0]:
        origin.append(pictures.NUMBERS.read_text(encoding="utf-8"))
    return text, hashlib.sha256("\0".join(origin).encode()).hexdigest()[:8]


def write_drawn(source: str) -> str:
    """The source of a text cell with its table or picture, made again if it is another one."""
    found = DRAWN.search(source)
    if not found:
        return source
    text, origin = drawn(found[1], found[2])
    if found[3] == origin and PICTURE.sub("", source[found.end() :]).strip() == PICTURE.sub(
        "", text
    ):
        return source
    return f"{source[: found.start()]}<!-- {found[1]}: {found[2]} {origin} -->\n\n{text}"


def packed_library() -> str:
    """The statement that holds sae_lib, as a tar.xz in base 85. VS Code wraps lines of 10,000."""
    archive = io.BytesIO()
    with lzma.open(archive, "w", preset=9) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for path in sorted((ROOT / "sae_lib").rglob("*.*")):
            if path.suffix in (".py", ".html"):
                info = tarfile.TarInfo(path.relative_to(ROOT).as_posix())  # no owner, no date
                info.size = path.stat().st_size
                tar.addfile(info, io.BytesIO(path.read_bytes()))
    text = base64.b85encode(archive.getvalue()).decode()
    lines = [f'    "{text[i : i + 8_000]}"' for i in range(0, len(text), 8_000)]
    return "\n".join(["LIBRARY = (", *lines, ")"])


def write_library_in(notebook: nbformat.NotebookNode) -> None:
    """Fill the generated cells."""
    library = packed_library()
    for cell in notebook.cells:
        if found := SHOWN.search(cell.source):
            cell.source = cell.source[: found.end()] + "\n" + shown_source(*found.groups())
        cell.source = LIBRARY.sub(lambda _: library, write_drawn(cell.source))


def badge(name: str) -> str:
    """The line that opens a notebook in Colab; empty as long as no repository is named."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = project.get("urls", {}).get("Repository", "")
    if not repository.startswith("https://github.com/"):
        return ""
    place = repository.removeprefix("https://github.com/").strip("/")
    colab = "https://colab.research.google.com"
    page = f"{colab}/github/{place}/blob/main/{name}"
    return f"[![Open in Colab]({colab}/assets/colab-badge.svg)]({page})\n\n"


def code_hash(notebook: nbformat.NotebookNode) -> str:
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:16]


def looks_the_same(old: list, new: list) -> bool:
    """Outputs with the same words, and pictures in which next to no pixel differs."""
    if len(old) != len(new):
        return False
    for a, b in zip(old, new, strict=True):
        a, b = a.get("data", {"text": a.get("text")}), b.get("data", {"text": b.get("text")})
        if {**a, "image/png": 0} != {**b, "image/png": 0}:
            return False
        if "image/png" in a:
            files = (io.BytesIO(base64.b64decode(data["image/png"])) for data in (a, b))
            a, b = (np.asarray(Image.open(file).convert("RGB"), float) for file in files)
            if a.shape != b.shape or abs(a - b).mean() > 1:
                return False
    return True


def run(notebook: nbformat.NotebookNode) -> None:
    """Run every cell, and keep the outputs that look as before: a diff shows what changed."""
    before = {cell.id: cell.get("outputs", []) for cell in notebook.cells}
    execute(notebook, ROOT)
    for cell in notebook.cells:
        if cell.cell_type == "code" and looks_the_same(before[cell.id], cell.outputs):
            cell.outputs = before[cell.id]


def clean(notebook: nbformat.NotebookNode, ran: str) -> None:
    """Keep only the metadata that belongs to the lesson, and no trace of this run."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "file_extension": ".py", "pygments_lexer": "ipython3"},
        "outputs_of": ran,  # the code that the saved outputs belong to
    }
    for cell in notebook.cells:
        for key in ("execution", "ExecuteTime", "collapsed", "outputId", "colab"):
            cell.metadata.pop(key, None)
        for output in cell.get("outputs", []):
            output.pop("metadata", None) if output.output_type == "stream" else None


def sync(path: Path, *, may_run: bool) -> None:
    read = path.read_bytes()
    notebook = nbformat.reads(read.decode(), as_version=4)
    write_library_in(notebook)
    title = notebook.cells[0]
    title.source = badge(path.name) + BADGE.sub("", title.source)
    ran, now = notebook.metadata.get("outputs_of", ""), code_hash(notebook)
    if now != ran and may_run:
        run(notebook)
        ran = now
    clean(notebook, ran)
    nbformat.validate(notebook)
    if path.read_bytes() != read:
        sys.exit(f"{path.name} was saved elsewhere meanwhile and is left alone; run this again.")
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    print(f"{path.name}: {len(notebook.cells)} cells, {path.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--no-run", action="store_true", help="do not run the cells")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for path in LESSONS:
        sync(path, may_run=not arguments.no_run)


if __name__ == "__main__":
    main()

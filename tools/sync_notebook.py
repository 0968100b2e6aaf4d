"""Bring the notebooks up to date: the one command for authors.

    python tools/sync_notebook.py            write the library in; run the cells if code changed
    python tools/sync_notebook.py --no-run   write the library in only

What is generated stands below a line that marks it, so that an author can add one in Jupyter:

    # from sae_lib/sae.py: SAELoss, sae_loss     a code cell that shows these objects
    <!-- figure: draw_sae -->                    a picture of tools/pictures.py
    <!-- evidence: map -->                       a table or figure of evidence/run.py

A picture is made again only if what it is drawn from has changed: that's the word behind its name.
Also: the library that a folded cell carries, and the Colab badge, if pyproject.toml names a
repository under [project.urls].
"""

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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["TQDM_DISABLE"] = "1"  # progress bars are for the screen, not for the file
from evidence.pages import picture
from evidence.run import EXPERIMENTS
from tools import pictures
from tools.run_notebook import LESSONS, ROOT, execute

SHOWN = re.compile(r"(?m)^# from (sae_lib/\S+\.py): (.+)$")
DRAWN = re.compile(r"(?ms)^<!-- (figure|evidence): (\w+) ?(\w*) -->$.*")
PICTURE = re.compile(r"base64,[\w+/=]+")
LIBRARY = re.compile(r'^LIBRARY = \((\n    ".*")*\n\)', re.MULTILINE)
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


def drawn(found: re.Match) -> str:
    """A table or figure of the evidence, or a picture, as Markdown below the line that marks it.

    If neither its words nor the code and numbers behind it have changed, as it was.
    """
    kind, name, origin = found.groups()
    if kind == "evidence":
        draw = EXPERIMENTS[name][1]
        text = draw()
    else:
        draw = getattr(pictures, name)
        figure, said = draw()
        text = picture(figure, f"{draw.__doc__} {said}".strip())
    behind = [inspect.getsource(inspect.unwrap(draw)), PICTURE.sub("", text)]
    if "stored()" in behind[0]:
        behind.append(pictures.NUMBERS.read_text(encoding="utf-8"))
    now = hashlib.sha256("\0".join(behind).encode()).hexdigest()[:8]
    new = f"<!-- {kind}: {name} {now} -->\n\n{text}"
    is_same = now == origin and PICTURE.sub("", new) == PICTURE.sub("", found[0])
    return found[0] if is_same else new


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


def badge(name: str) -> str:
    """The line that opens a notebook in Colab; empty as long as no repository is named."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = project.get("urls", {}).get("Repository", "")
    if "github.com/" not in repository:
        return ""
    colab, place = "https://colab.research.google.com", repository.split("github.com/")[1]
    link = f"{colab}/github/{place.strip('/')}/blob/main/{name}"
    return f"[![Open in Colab]({colab}/assets/colab-badge.svg)]({link})\n\n"


def code_hash(notebook: nbformat.NotebookNode) -> str:
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:16]


def write_in(notebook: nbformat.NotebookNode) -> None:
    """Fill the generated cells."""
    library = packed_library()
    for cell in notebook.cells:
        if found := SHOWN.search(cell.source):
            cell.source = cell.source[: found.end()] + "\n" + shown_source(*found.groups())
        cell.source = DRAWN.sub(drawn, cell.source)
        cell.source = LIBRARY.sub(lambda _: library, cell.source)


def look_alike(old: list, new: list) -> bool:
    """Outputs with the same words, and pictures of which next to no pixel differs."""

    def words(outputs: list) -> list:
        shown = (o.get("data", {"text": o.get("text")}) for o in outputs)
        alts = (o.get("metadata", {}) for o in outputs)
        return [({**data, "image/png": ""}, alt) for data, alt in zip(shown, alts, strict=True)]

    def pixels(outputs: list) -> list:
        pngs = (o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {}))
        files = (io.BytesIO(base64.b64decode(png)) for png in pngs)
        return [np.asarray(Image.open(file).convert("RGB"), float) for file in files]

    def alike(a: np.ndarray, b: np.ndarray) -> bool:
        """As shades, and as strokes: a word is only a few pixels."""
        return a.shape == b.shape and abs(a - b).mean() < 1 and (abs(a - b) > 32).mean() < 5e-4

    pairs = zip(pixels(old), pixels(new), strict=False)
    return words(old) == words(new) and all(alike(a, b) for a, b in pairs)


def run(notebook: nbformat.NotebookNode) -> None:
    """Run every cell, and keep the outputs that look as before: a diff shows what changed."""
    before = {cell.id: cell.get("outputs", []) for cell in notebook.cells}
    execute(notebook, ROOT)
    for cell in notebook.cells:
        if cell.cell_type == "code" and look_alike(before[cell.id], cell.outputs):
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


def sync(path: Path, *, may_run: bool) -> None:
    read = path.read_bytes()
    notebook = nbformat.reads(read.decode(), as_version=4)
    title = notebook.cells[0]
    title.source = badge(path.name) + BADGE.sub("", title.source)
    write_in(notebook)
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


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--no-run"]):
        sys.exit(__doc__)
    torch.set_num_threads(1)
    for lesson in LESSONS:
        sync(lesson, may_run="--no-run" not in sys.argv)

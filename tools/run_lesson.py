"""Run the whole lesson without opening it: every cell, with progress, to a page one can read.

    python tools/run_lesson.py [NOTEBOOK ...]

Prints the verdict and writes the page (NOTEBOOK with the ending .html) to the current folder.
The notebook itself is not changed. Exit status 0 if every cell ran and the page is there, else 1.
"""

import sys
from pathlib import Path

import nbformat
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from tqdm import tqdm
from traitlets.config.loader import PyFileConfigLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools.run_notebook import LESSONS, ROOT, execute, verdict


def write_page(notebook: nbformat.NotebookNode, page: Path) -> None:
    """The notebook as HTML; a page of that name that was not made from a notebook stays."""
    if page.exists() and "jp-Cell" not in page.read_text(encoding="utf-8", errors="replace"):
        raise FileExistsError(f"{page} is there, and was not made from a notebook")
    config = PyFileConfigLoader(str(ROOT / "docs" / "nbconvert_config.py")).load_config()
    page.write_text(HTMLExporter(config=config).from_notebook_node(notebook)[0], encoding="utf-8")


def run_lesson(path: Path) -> str:
    """What went wrong, in a sentence, or nothing."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError, AttributeError, nbformat.ValidationError) as error:
        return f"{path} could not be read as a notebook: {str(error).splitlines()[0]}"
    failure, page = "", Path(f"{path.stem}.html").resolve()
    with tqdm(total=len(notebook.cells), unit="cell") as bar:

        def tell(cell, cell_index):
            bar.update()
            if cell.cell_type == "markdown" and cell.source.startswith("## "):
                bar.set_description(cell.source.splitlines()[0].strip("# ")[:40])

        try:
            execute(notebook, path.parent, on_cell_start=tell)
        except CellExecutionError as error:
            failure = f"A cell failed: {error.ename}: {error.evalue}"
        except (RuntimeError, TimeoutError) as error:
            failure = f"The kernel gave up: {error}"
    try:
        if said := verdict(notebook):
            print(said)  # first, as the page may not get written
        write_page(notebook, page)
        print(f"The page: {page}")
    except OSError as error:
        failure = failure or f"The page could not be written: {error}"
    return failure


def main(*names: str) -> int:
    sys.stdout.reconfigure(errors="replace")  # the verdict holds a λ, which not every console can
    paths = [Path(name).resolve() for name in names] or LESSONS[:1]
    failures = [failure for path in paths if (failure := run_lesson(path))]
    print(*failures, sep="\n", end="\n" if failures else "", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

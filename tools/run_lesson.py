"""Run the whole lesson without opening it: every cell, with progress, to a page one can read.

    python tools/run_lesson.py [NOTEBOOK]

Prints the verdict and writes the page (NOTEBOOK with the ending .html) to the current folder.
The notebook itself is not changed. Exit status 0 if every cell ran and the page is there, else 1.
"""

import sys
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from tqdm import tqdm
from traitlets.config.loader import PyFileConfigLoader

ROOT = Path(__file__).resolve().parents[1]


class OnePython(AsyncKernelManager):
    """Starts the kernel with one interpreter, whatever is registered as `python3`."""

    python = sys.executable

    @property
    def kernel_spec(self) -> KernelSpec:
        launcher = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
        quiet = "--log-level=ERROR"  # else it warns of TCP, which stays on this machine
        return KernelSpec(argv=[self.python, *launcher, quiet])


def main() -> int:
    sys.stdout.reconfigure(errors="replace")  # the verdict holds a λ, which not every console can
    path = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "sparse_autoencoders.ipynb").resolve()
    page = Path(f"{path.stem}.html").resolve()
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=600,
        coalesce_streams=True,
        kernel_manager_class=OnePython,
        resources={"metadata": {"path": str(path.parent)}},
    )
    failure = ""
    with client.setup_kernel(), tqdm(notebook.cells, unit="cell") as bar:
        for i, cell in enumerate(bar):
            if cell.cell_type == "markdown" and cell.source.startswith("## "):
                bar.set_description(cell.source.splitlines()[0].strip("# ")[:40])
            try:
                client.execute_cell(cell, i)
            except CellExecutionError as error:
                failure = f"A cell failed: {error.ename}: {error.evalue}"
                break
    for cell in notebook.cells:
        if cell.get("id") == "verdict":  # first, as the page may not get written
            print("".join(out.get("text", "") for out in cell.outputs).strip())
    config = PyFileConfigLoader(str(ROOT / "docs" / "nbconvert_config.py")).load_config()
    try:
        page.write_text(HTMLExporter(config=config).from_notebook_node(notebook)[0], "utf-8")
        print(f"The page: {page}")
    except OSError as error:
        failure = failure or f"The page could not be written: {error}"
    if failure:
        print(failure, file=sys.stderr)
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())

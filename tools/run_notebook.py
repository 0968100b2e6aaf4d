"""The one runner of notebooks: of the lesson without opening it, of the sync and of the tests."""

import re
import sys
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
LESSONS = [ROOT / "sparse_autoencoders.ipynb", ROOT / "how_far_can_you_trust_it.ipynb"]


def execute(
    notebook: nbformat.NotebookNode,
    folder: str | Path,
    python: str | Path = sys.executable,
    before: str = "",
    **options,
) -> None:
    """Run every cell in place, in a kernel of that Python that starts in that folder.

    `before` is code for the kernel to run ahead of the first cell; options go to NotebookClient.
    Raises nbclient's CellExecutionError if a cell fails, and a RuntimeError if the kernel dies.
    """

    class OnePython(AsyncKernelManager):
        """Starts one interpreter, whatever is registered as `python3`."""

        @property
        def kernel_spec(self) -> KernelSpec:
            launcher = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
            quiet = "--log-level=ERROR"  # else it warns of TCP, which stays on this machine
            return KernelSpec(argv=[str(python), *launcher, quiet])

    notebook.metadata.pop("widgets", None)  # of another run; and without `state` no page is made
    notebook.cells.insert(0, nbformat.v4.new_code_cell(before))
    options = {
        "timeout": 900,
        "coalesce_streams": True,
        "kernel_manager_class": OnePython,
    } | options
    try:
        NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}, **options).execute()
    finally:
        del notebook.cells[0]


def verdict(notebook: nbformat.NotebookNode) -> str:
    """The last printed line that begins like "10 of 10 recovered", or an empty string.

    By its words, as nbstripout and Jupytext drop the cells' ids.
    """
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    printed = "".join(out.text for out in outputs if out.get("name") == "stdout")
    return (re.findall(r"(?m)^\d+ of \d+ recovered.*$", printed) or [""])[-1]

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
    first = [nbformat.v4.new_code_cell(before)] if before else []
    notebook.cells[:0] = first
    options = {"timeout": 900, "resources": {"metadata": {"path": str(folder)}}, **options}
    how = {"kernel_manager_class": OnePython, "coalesce_streams": True, **options}
    try:
        NotebookClient(notebook, **how).execute()
    finally:
        del notebook.cells[: len(first)]


def verdict(notebook: nbformat.NotebookNode) -> str:
    """The last output that begins like "10 of 10 recovered", or an empty string.

    It is known by its words, as nbstripout and Jupytext drop the cells' ids.
    """
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    texts = [out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs]
    return next((t.strip() for t in texts[::-1] if re.match(r"\d+ of \d+ recovered", t)), "")

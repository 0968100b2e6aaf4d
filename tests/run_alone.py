"""Run the notebook as a lone upload would: one file, an empty folder, no network.

    python tests/run_alone.py [PYTHON]

PYTHON is the interpreter whose packages the notebook may use (this one by default). Exits
with an error unless every cell runs and what is printed equals what is saved in the notebook.
"""

import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "sparse_autoencoders.ipynb"
NO_NETWORK = """
import socket
connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo

def refuse(what):
    raise OSError(f"no network in this test: {what}")

def connect_here(self, address):
    local = not isinstance(address, tuple) or address[0] in ("127.0.0.1", "::1", "localhost")
    return connect(self, address) if local else refuse(address)

def look_up_here(host, *rest, **options):
    local = host in (None, "", "127.0.0.1", "::1", "localhost")
    return getaddrinfo(host, *rest, **options) if local else refuse(host)

socket.socket.connect, socket.getaddrinfo = connect_here, look_up_here
"""


class OtherPython(AsyncKernelManager):
    """Starts the kernel with a given interpreter, whatever kernels are registered."""

    python = sys.executable

    @property
    def kernel_cmd(self) -> list[str]:
        return [self.python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        return [part.format(connection_file=self.connection_file) for part in self.kernel_cmd]


def printed(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """What each code cell printed."""
    return {
        cell.id: "".join(o.text for o in cell.outputs if o.get("name") == "stdout")
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


def main() -> None:
    OtherPython.python = str(Path(sys.argv[1] if len(sys.argv) > 1 else sys.executable).absolute())
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(NOTEBOOK, folder)
        site = Path(tempfile.mkdtemp())
        (site / "sitecustomize.py").write_text(NO_NETWORK)
        os.environ["PYTHONPATH"] = str(site)
        os.environ["TQDM_DISABLE"] = "1"
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        saved, start = printed(notebook), time.monotonic()
        NotebookClient(
            notebook,
            timeout=600,
            coalesce_streams=True,
            kernel_manager_class=OtherPython,
            resources={"metadata": {"path": folder}},
        ).execute()
    different = [cell for cell, text in printed(notebook).items() if text != saved[cell]]
    for cell in different:
        print(f"{cell}: saved {saved[cell]!r}, now {printed(notebook)[cell]!r}")
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{time.monotonic() - start:.0f} s, {memory:.2f} GiB; {printed(notebook)['verdict']}")
    sys.exit(f"{len(different)} cells printed something else" if different else 0)


if __name__ == "__main__":
    main()

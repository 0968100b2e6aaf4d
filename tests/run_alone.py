"""Run the notebook as a lone upload would: one file, an empty folder, no network.

    python tests/run_alone.py [PYTHON]

PYTHON is the interpreter whose packages the notebook may use (this one by default). Exits
with an error unless every cell runs, none warns, and what is printed equals what is saved in the
notebook. Another torch rounds differently, so that with it only the verdict is held to that, in
the number of features recovered.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import torch
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
    now = printed(notebook)
    warned = {
        c.id for c in notebook.cells for o in c.get("outputs", []) if o.get("name") == "stderr"
    }
    version = subprocess.check_output(
        [OtherPython.python, "-c", "import torch; print(torch.__version__)"], text=True
    ).strip()
    same_torch = version.split("+")[0] == torch.__version__.split("+")[0]
    # the first line of all says where the library came from, which is not the same here
    different = [cell for cell in now if now[cell] != saved[cell] and cell != "library"]
    for cell in different:
        print(f"{cell}: saved {saved[cell]!r}, now {now[cell]!r}")
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"torch {version}: {time.monotonic() - start:.0f} s, {memory:.2f} GiB; {now['verdict']}")
    assert "unpacked from this notebook" in now["library"], now["library"]
    assert now["verdict"].split(",")[0] == saved["verdict"].split(",")[0]
    assert not warned, f"{warned} wrote warnings"
    if same_torch:
        assert not different, f"{len(different)} cells printed something else"


if __name__ == "__main__":
    main()

"""Run the notebook as a lone upload would: one file, an empty folder, no network.

    python tests/run_alone.py [PYTHON]

PYTHON is the interpreter whose packages the notebook may use (this one by default). Exits with
an error unless every cell runs, none warns, and what is printed equals what is saved in the
notebook. Another torch than the pinned one rounds differently, so that with it only the verdict is
held to that, in the number of features recovered. The environment is passed on, for
PYTHONOPTIMIZE=1 (no asserts) or ATEN_CPU_CAPABILITY=default (arithmetic of an old processor: then
the words must be equal and the numbers alike).
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
sys.path.insert(0, str(ROOT / "tools"))
from run_lesson import OnePython  # noqa: E402

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


def printed(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """What each code cell printed."""
    return {
        cell.id: "".join(o.text for o in cell.outputs if o.get("name") == "stdout")
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


def alike(a: str, b: str) -> bool:
    """The same words, and numbers that differ by no more than a tenth, or by 1 in a count."""
    pairs = zip(re.findall(NUMBER, a), re.findall(NUMBER, b), strict=False)
    numbers = ((float(x.replace(",", "")), float(y.replace(",", ""))) for x, y in pairs)
    close = all(abs(x - y) <= max(1, 0.1 * max(x, y)) for x, y in numbers)
    return close and re.split(NUMBER, a) == re.split(NUMBER, b)


def main() -> str:
    """Run it; what is wrong, or an empty string."""
    OnePython.python = str(Path(sys.argv[1] if len(sys.argv) > 1 else sys.executable).absolute())
    notebook = nbformat.read(ROOT / "sparse_autoencoders.ipynb", as_version=4)
    saved, start = printed(notebook), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as site:
        shutil.copy(ROOT / "sparse_autoencoders.ipynb", folder)
        (Path(site) / "sitecustomize.py").write_text(NO_NETWORK, encoding="utf-8")
        os.environ |= {"PYTHONPATH": site, "TQDM_DISABLE": "1"}
        where = {"metadata": {"path": folder}}
        how = {"timeout": 600, "coalesce_streams": True, "kernel_manager_class": OnePython}
        NotebookClient(notebook, resources=where, **how).execute()
    now = printed(notebook)
    torch_here = "from importlib.metadata import version; print(version('torch').split('+')[0])"
    torch = subprocess.check_output([OnePython.python, "-c", torch_here], text=True).strip()
    print(f"torch {torch}: {time.monotonic() - start:.0f} s; {now['verdict'].strip()}")
    if "the notebook's own copy" not in now["library"]:
        return f"The notebook used another library than its own: {now['library']}"
    outputs = [(cell.id, out) for cell in notebook.cells for out in cell.get("outputs", [])]
    if warned := {cell for cell, out in outputs if out.get("name") == "stderr"}:
        return f"Cells wrote warnings: {warned}"
    if now["verdict"].split(",")[0] != saved["verdict"].split(",")[0]:
        return f"Saved was: {saved['verdict']}"
    if f"torch=={torch}\n" not in (ROOT / "requirements.txt").read_text(encoding="utf-8"):
        return ""
    # the first line of all says where the library came from, which is not the same here
    # and with the arithmetic of another processor a last digit may be another one
    same = alike if "ATEN_CPU_CAPABILITY" in os.environ else str.__eq__
    different = [cell for cell in now if not same(now[cell], saved[cell]) and cell != "library"]
    return "\n".join(f"{c}: saved {saved[c]!r}, now {now[c]!r}" for c in different)


if __name__ == "__main__":
    sys.exit(main() or 0)

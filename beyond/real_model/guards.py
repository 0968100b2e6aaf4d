"""What keeps a long run honest: whole files, one run a folder, the same data when it goes on."""

import contextlib
import hashlib
import io
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout  # torch itself needs it

from sae_lib.saving import write_file

OUTLIER = 10  # times the median length; first tokens of decoder models reach 150


def first_bad_row(x: np.ndarray) -> int | None:
    """The first row (n, width) that holds NaN or infinity."""
    bad = ~np.isfinite(x).all(axis=1)
    return int(bad.argmax()) if bad.any() else None


def outliers(x: np.ndarray) -> np.ndarray:
    """Which rows (n, width) are longer than OUTLIER medians of the rows that are not zero: (n,).

    Decoder models put a huge activation on the first token of a text (Sun et al. 2024,
    arXiv 2402.17762). Mean, scale and error would be those of that token, and of no other.
    """
    lengths = np.linalg.norm(x.astype(np.float32), axis=1)
    median = np.median(lengths[lengths > 0]) if lengths.any() else 0.0
    return lengths > OUTLIER * median


def spread(n: int) -> np.ndarray:
    """Up to 10,000 places from the first to the last of n: enough to know the data again by."""
    return np.linspace(0, n - 1, min(n, 10_000)).astype(int)


def fingerprint(arrays: Iterable[np.ndarray]) -> str:
    """A hash of rows spread over each array; of all rows where there are at most 10,000."""
    digest = hashlib.sha256()
    for array in map(np.atleast_1d, arrays):
        digest.update(np.ascontiguousarray(array[spread(len(array))]))
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder, and let no second run into it. Raise ValueError if one is in there.

    The operating system frees the lock when the process ends, however it ends; the empty file
    .lock that stays behind locks nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(
            f"Another run is at work in {folder}: wait for it, or name another folder."
        ) from None


def write(path: Path, content: bytes | memoryview) -> None:
    """Write a whole file, or nothing and raise OSError in one sentence: the disk may be full."""
    try:
        write_file(path, content)
    except OSError as error:
        raise OSError(
            f"{path} could not be written ({error.strerror}): make room and run this again, it "
            "goes on from the last whole file."
        ) from error


def cosine(step: int, n_steps: int) -> float:
    """The learning rate's factor, from 1 to 0. It depends on the step alone: no state to save."""
    return 0.5 * (1 + math.cos(math.pi * step / n_steps))


def save_checkpoint(path: Path, sae, optimizer, settings: dict, step: int, log: list) -> None:
    """Weights, optimiser and place in one file."""
    state = {"settings": settings, "step": step, "log": log}
    state |= {"sae": sae.state_dict(), "optimizer": optimizer.state_dict()}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write(path, buffer.getbuffer())


def load_checkpoint(path: Path, settings: dict) -> dict | None:
    """The checkpoint of this very run, None if there is none yet; ValueError if of another.

    A finished run may go on to a larger n_steps: the cosine is then that of the longer run, so
    the learning rate rises again first.
    """
    if not path.exists():
        return None
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        made_with = dict(checkpoint["settings"])
        if checkpoint["step"] == made_with["n_steps"] < settings["n_steps"]:
            made_with["n_steps"] = settings["n_steps"]
    except Exception as error:
        raise ValueError(f"{path} is not a checkpoint that can be read; it is kept.") from error
    for name, value in settings.items():
        if made_with.get(name) != value:
            raise ValueError(
                f"{path} was made with {name} = {made_with.get(name)}, but {value} came: to go "
                "on, keep the settings; to start anew, name another folder."
            )
    return checkpoint


def put_back(checkpoint: dict | None, sae, optimizer) -> tuple[int, list]:
    """Weights and optimiser as they were; the next step and the log."""
    if checkpoint is None:
        return 0, []
    sae.load_state_dict(checkpoint["sae"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return checkpoint["step"], checkpoint["log"]

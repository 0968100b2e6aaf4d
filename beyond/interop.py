"""SAELens, beyond what `save_sae` and `load_sae` do: its JumpReLU, and SAEs for raw activations."""

import json
from copy import deepcopy
from pathlib import Path

import torch
from safetensors.torch import load
from torch import nn

from sae_lib import SparseAutoencoder
from sae_lib.checks import finite
from sae_lib.saving import load_sae, sae_of, save_sae


class JumpReLUSparseAutoencoder(SparseAutoencoder):
    """A latent is silent up to its threshold: h = z where z > max(threshold, 0), else 0.

    z = x W_enc + b_enc, threshold (d_sae,). To be loaded, not trained: the step has no slope.
    Rajamanoharan et al. 2024, arXiv 2407.14435.
    """

    def __init__(self, d_in: int, d_sae: int, *, seed: int = 0):
        super().__init__(d_in, d_sae, seed=seed)
        self.threshold = nn.Parameter(torch.zeros(d_sae))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        z = x @ self.W_enc + self.b_enc
        return torch.relu(z) * (z > self.threshold)


def load_from_saelens(folder: str | Path) -> SparseAutoencoder:
    """`load_sae`, and JumpReLU too, as which SAELens saves BatchTopK and Matryoshka SAEs.

    But for its threshold, the file of a JumpReLU SAE is that of a ReLU SAE. Raises as `load_sae`.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
        if config["architecture"] == "jumprelu":
            weights = load((folder / "sae_weights.safetensors").read_bytes())
            weights = {name: finite(name, w) for name, w in weights.items()}
            threshold = weights.pop("threshold")
            plain = sae_of(config | {"architecture": "standard"}, weights)
            sae = JumpReLUSparseAutoencoder(*plain.W_enc.shape)
            sae.load_state_dict(plain.state_dict() | {"threshold": threshold})
            return sae
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{folder} holds no SAE that can be read: {error}") from error
    return load_sae(folder)


def export_to_saelens(
    sae: SparseAutoencoder,
    folder: str | Path,
    *,
    mean: torch.Tensor | float = 0.0,
    scale: float = 1.0,
    metadata: dict | None = None,
    overwrite: bool = False,
) -> None:
    """`save_sae`, of an SAE that reads a model's raw activations, and with a word on its origin.

    mean (d_in,), scale: what the SAE was trained on is (x - mean) / scale. They are folded in:

        b_enc  ->  scale · b_enc - mean @ W_enc        b_dec  ->  scale · b_dec + mean

    The rows of W_dec keep their length, and latents come out `scale` times as large: as long as
    what they write into the raw activation. Of TopK the same k are kept.
    metadata: for SAELens's field of that name, such as model_name, hook_name, dataset_path.
    Before anything is written, raises ValueError if scale is not above 0 or metadata is nothing
    that JSON holds, and as `save_sae` does.
    """
    folder, metadata = Path(folder), metadata or {}
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale: expected a finite number above 0, got {scale}.")
    try:
        json.dumps(metadata)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata: expected what JSON can hold, got {error}.") from error
    raw = deepcopy(sae).cpu().float().requires_grad_(False)
    weights = {name: w.double() for name, w in raw.named_parameters()}
    mean = torch.as_tensor(mean).cpu().double().expand(weights["b_dec"].shape)
    weights["b_enc"] = scale * weights["b_enc"] - mean @ weights["W_enc"]
    weights["b_dec"] = scale * weights["b_dec"] + mean
    raw.load_state_dict(weights)
    save_sae(raw, folder, overwrite=overwrite)
    config = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
    config["metadata"] |= metadata
    (folder / "cfg.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

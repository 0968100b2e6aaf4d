"""Saving and loading, in the field's format: a folder that SAELens reads and writes too."""

import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load, save

from sae_lib.guards import finite
from sae_lib.sae import SparseAutoencoder, TopKSparseAutoencoder

SAELENS_VERSION = "6.54.12"  # whose format this is; without a version SAELens assumes an old one
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")


def save_sae(sae: SparseAutoencoder, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write a folder that `load_sae` reads, and SAELens: `sae_lens.SAE.load_from_disk(folder)`.

        cfg.json                 architecture, sizes, and what SAELens must not do to the input
        sae_weights.safetensors  W_enc, b_enc, W_dec, b_dec, as they are

    SAELens subtracts b_dec from its input unless the file says otherwise, so
    `"apply_b_dec_to_input": false` is written. Raises FileExistsError if the folder holds an SAE
    already, unless overwrite=True; ValueError if `sae` computes anything else than a ReLU or a
    TopK SAE does, since weights carry no code.
    """
    folder = Path(folder)
    weights = {name: finite(name, getattr(sae, name)).cpu().contiguous() for name in NAMES}
    d_sae, d_in = weights["W_dec"].shape
    config = {
        "architecture": "standard",
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": str(weights["W_dec"].dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": SAELENS_VERSION, "sae_lens_training_version": None},
    }
    if hasattr(sae, "k"):
        # the k strongest as they are, not weighted by the length of what they write
        config |= {"architecture": "topk", "k": int(sae.k), "rescale_acts_by_decoder_norm": False}
    _require_same_outputs(sae, sae_of(config, weights))
    if (folder / "cfg.json").exists() and not overwrite:
        raise FileExistsError(f"{folder} holds an SAE already; pass overwrite=True to replace it.")
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=2) + "\n"  # before anything is written
    write_file(folder / "sae_weights.safetensors", save(weights))
    write_file(folder / "cfg.json", text.encode())


def load_sae(folder: str | Path) -> SparseAutoencoder:
    """Read a ReLU ("standard") or TopK SAE that `save_sae` or SAELens 6 wrote. Runs no code.

    The result has SAELens's latent activations and output, in float32 whatever the file holds.
    What ours does not do is folded in:

        x - b_dec at the input             b_enc - b_dec @ W_enc, the default of SAELens
        latents weighed by their norms     W_enc · |w_i|,  b_enc · |w_i|,  w_i / |w_i|

    The second is TopK's rescale_acts_by_decoder_norm; w_i is row i of W_dec. Raises
    FileNotFoundError if a file is missing; ValueError if it cannot be read, or holds what a ReLU
    or a TopK SAE does not do.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
        weights = load((folder / "sae_weights.safetensors").read_bytes())
        sae = sae_of(config, {name: finite(name, weights[name]) for name in NAMES})
        sae(torch.zeros(1, sae.W_enc.shape[0]))  # k may be no number, or too large
    except FileNotFoundError:
        raise
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{folder} holds no SAE that can be read: {why}") from error
    return sae


def sae_of(config: dict, weights: dict[str, torch.Tensor]) -> SparseAutoencoder:
    """The SAE that a cfg.json and its weights describe; raise if ours cannot be that."""
    for name, known in {
        "architecture": ("standard", "topk"),
        "normalize_activations": ("none",),
        "reshape_activations": ("none",),
    }.items():
        if config.get(name, "none") not in known:
            raise ValueError(f"{name} is {config.get(name)!r}; only {known} can be read.")
    if config.get("apply_b_dec_to_input", True):
        weights["b_enc"] = weights["b_enc"] - weights["b_dec"] @ weights["W_enc"]
    if config.get("rescale_acts_by_decoder_norm", False):
        norms = weights["W_dec"].norm(dim=1)
        weights |= {name: weights[name] * norms for name in ("W_enc", "b_enc")}
        weights["W_dec"] = weights["W_dec"] / norms.clamp_min(1e-12)[:, None]
    d_sae, d_in = weights["W_dec"].shape
    if config["architecture"] == "topk":
        sae = TopKSparseAutoencoder(d_in, d_sae, k=config["k"])
    else:
        sae = SparseAutoencoder(d_in, d_sae)
    sae.load_state_dict(weights)
    return sae


@torch.no_grad()
def _require_same_outputs(sae: SparseAutoencoder, again: SparseAutoencoder) -> None:
    """Raise unless both give the same code and output on 16 random inputs."""
    x = torch.randn(16, again.W_enc.shape[0], generator=torch.Generator().manual_seed(0))
    weights = {name: w.cpu().float() for name, w in sae.state_dict().items()}
    for ours, read in zip(torch.func.functional_call(sae, weights, (x,)), again(x), strict=True):
        if not torch.allclose(ours, read, rtol=1e-3, atol=1e-3):
            raise ValueError(
                f"This {type(sae).__name__} computes something else than ReLU(x W_enc + b_enc), "
                "its k strongest, and h W_dec + b_dec; the weights alone would not carry that."
            )


def write_file(path: Path, content: bytes) -> None:
    """Put a whole file in the place of the old one, or leave the old one as it is.

    A link is followed, not replaced. The unfinished file has a name that no one else uses.
    """
    path = path.resolve()
    handle, unfinished = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(unfinished).chmod(0o644)  # mkstemp lets no one else read it
        Path(unfinished).replace(path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise

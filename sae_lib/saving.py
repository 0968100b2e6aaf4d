"""Saving and loading, in the field's format: a folder that SAELens reads and writes too."""

import json
import uuid
from pathlib import Path

import torch
from safetensors.torch import load, save

from sae_lib.checks import finite
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
        "apply_b_dec_to_input": False,
        "metadata": {"sae_lens_version": SAELENS_VERSION, "sae_lens_training_version": None},
    }
    if hasattr(sae, "k"):
        # the k strongest as they are, not weighted by the length of what they write
        config |= {"architecture": "topk", "k": int(sae.k), "rescale_acts_by_decoder_norm": False}
    x = torch.randn(16, d_in, generator=torch.Generator().manual_seed(0))
    own = {name: w.detach().cpu().float() for name, w in sae.state_dict().items()}
    pairs = zip(torch.func.functional_call(sae, own, (x,)), sae_of(config, weights)(x), strict=True)
    if not all(torch.allclose(ours, read, rtol=1e-3, atol=1e-3) for ours, read in pairs):
        raise ValueError(
            f"This {type(sae).__name__} computes something else than ReLU(x W_enc + b_enc), "
            "its k strongest, and h W_dec + b_dec; the weights alone would not carry that."
        )
    if (folder / "cfg.json").exists() and not overwrite:
        raise FileExistsError(f"{folder} holds an SAE already; pass overwrite=True to replace it.")
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "sae_weights.safetensors", save(weights))
    write_file(folder / "cfg.json", (json.dumps(config, indent=2) + "\n").encode())


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
    config = Path(folder, "cfg.json").read_bytes()
    weights = Path(folder, "sae_weights.safetensors").read_bytes()
    try:
        config, weights = json.loads(config), load(weights)
        sae = sae_of(config, {name: finite(name, weights[name]) for name in NAMES})
        sae(torch.zeros(1, sae.W_enc.shape[0]))  # k may be no number, or too large
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


def write_file(path: Path, content: bytes) -> None:
    """Put a whole file in the place of the old one, or leave the old one as it is.

    A link is followed, not replaced. The unfinished file has a name that no one else uses.
    """
    path = path.resolve()
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)

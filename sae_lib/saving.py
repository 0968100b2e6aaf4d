"""Saving and loading, in the field's format: a folder that SAELens reads and writes too."""

import json
from pathlib import Path

import torch
from safetensors.torch import load, save

from sae_lib.checks import finite, whole
from sae_lib.sae import SparseAutoencoder, TopKSparseAutoencoder, random_directions

SAELENS_VERSION = "6.54.12"  # whose format this is; without a version SAELens assumes an old one
FILES = CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")
# What in a cfg.json changes no number: its origin, and what only SAELens's training reads.
NO_MATTER = {"dtype", "device", "metadata", "decoder_init_norm", "l1_coefficient", "lp_norm"}
NO_MATTER |= {"l1_warm_up_steps", "aux_loss_coefficient", "use_sparse_activations"}


def save_sae(sae: SparseAutoencoder, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write a folder that `load_sae` reads, and SAELens: `sae_lens.SAE.load_from_disk(folder)`.

        cfg.json                 architecture, sizes, and what SAELens must not do to the input
        sae_weights.safetensors  W_enc, b_enc, W_dec, b_dec, as they are

    SAELens subtracts b_dec from its input unless the file says otherwise, so
    `"apply_b_dec_to_input": false` is written. Raises FileExistsError if one of the two files is
    there already, unless overwrite=True; ValueError if `sae` computes anything else than a ReLU
    or a TopK SAE does, since weights carry no code.
    """
    folder = Path(folder).expanduser()
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
    if getattr(sae, "k", None) is not None:
        # the k strongest as they are, not weighted by the length of what they write
        k = whole("k", sae.k, 1, d_sae)
        config |= {"architecture": "topk", "k": k, "rescale_acts_by_decoder_norm": False}
    if not _same_function(sae_of(config, weights), sae):
        raise ValueError(
            "sae: expected ReLU(x W_enc + b_enc), its k strongest, and h W_dec + b_dec, got a "
            f"{type(sae).__name__} that computes something else, which its weights do not carry."
        )
    if any((folder / name).exists() for name in FILES) and not overwrite:
        raise FileExistsError(f"{folder} holds an SAE already; pass overwrite=True to replace it.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)  # after a crash in between, nothing can be loaded
    (folder / WEIGHTS).write_bytes(save(weights))
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _same_function(read: SparseAutoencoder, sae: SparseAutoencoder) -> bool:
    """Whether two SAEs agree up to rounding, on inputs of any length: the longest wake latents
    that are silent on all of the usual ones."""
    d_in = read.W_dec.shape[1]
    x = torch.cat([length * random_directions(64, d_in) for length in (0.1, 1, 30, 1_000)])
    own = {name: w.detach().cpu().float() for name, w in sae.state_dict().items()}
    size = x.norm(dim=1)
    pairs = zip(read(x), torch.func.functional_call(sae, own, (x,)), strict=True)
    return all(((a - b).norm(dim=1) <= 1e-4 * (size + a.norm(dim=1))).all() for a, b in pairs)


def load_sae(folder: str | Path) -> SparseAutoencoder:
    """Read a ReLU ("standard") or TopK SAE that `save_sae` or SAELens 6 wrote. Runs no code.

    The result has SAELens's latent activations and output, in float32 whatever the file holds.
    What ours does not do is folded in:

        x - b_dec at the input             b_enc - b_dec @ W_enc, the default of SAELens
        latents weighed by their norms     W_enc · |w_i|,  b_enc · |w_i|,  w_i / |w_i|

    The second is TopK's rescale_acts_by_decoder_norm; w_i is row i of W_dec. Raises
    FileNotFoundError if a file is missing; ValueError if it cannot be read, or holds what a ReLU
    or a TopK SAE does not do. An SAE of an older SAELens: load and save it there once.
    """
    folder = Path(folder).expanduser()
    config, weights = ((folder / name).read_bytes() for name in FILES)
    try:
        return sae_of(json.loads(config), load(weights))
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        if weights.startswith(b"version https://git-lfs"):
            why = f"{WEIGHTS} is a Git LFS pointer; `git lfs pull` fetches the file."
        if weights.lstrip().startswith(b"<"):
            why = f"{WEIGHTS} is a web page."
        raise ValueError(f"{folder} holds no SAE that can be read: {why}") from error


def sae_of(config: dict, weights: dict[str, torch.Tensor]) -> SparseAutoencoder:
    """The SAE that a cfg.json and its weights describe; raise if ours cannot be that."""
    weights = {name: finite(name, w) for name, w in weights.items()}
    d_sae, d_in = finite("W_dec", weights["W_dec"], n_columns=0).shape
    known = {  # what changes the computation, with the values that ours can follow
        "architecture": ("standard", "topk"),
        "d_in": (d_in,),
        "d_sae": (d_sae,),
        "apply_b_dec_to_input": (True, False),
        "normalize_activations": ("none",),
        "reshape_activations": ("none",),
    }
    if is_topk := config["architecture"] == "topk":
        known |= {"k": range(1, d_sae + 1), "rescale_acts_by_decoder_norm": (True, False)}
    for name, value in config.items():
        if name not in NO_MATTER and value not in known.get(name, ()):
            expected = f"one of {known[name]}" if name in known else "no such key"
            raise ValueError(f"{name}: expected {expected}, got {value!r}.")
    if config.get("apply_b_dec_to_input", True):
        weights["b_enc"] = weights["b_enc"] - weights["b_dec"] @ weights["W_enc"]
    if config.get("rescale_acts_by_decoder_norm", False):
        norms = weights["W_dec"].norm(dim=1)
        weights |= {name: weights[name] * norms for name in ("W_enc", "b_enc")}
        weights["W_dec"] = weights["W_dec"] / norms.clamp_min(1e-12)[:, None]
    if is_topk:
        sae = TopKSparseAutoencoder(d_in, d_sae, k=config["k"])
    else:
        sae = SparseAutoencoder(d_in, d_sae)
    # this refuses a tensor too many or too few, and one of another shape
    sae.load_state_dict({k: finite(f"{k} in float32", w.float()) for k, w in weights.items()})
    return sae

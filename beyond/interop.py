"""Hand an SAE to the field's tools and take one back: SAELens, dictionary_learning, sparsify."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sae_lib.sae import SparseAutoencoder, TopKSparseAutoencoder

SAELENS_VERSION = "6.54.12"  # the format below; without a version SAELens assumes an old one
DTYPES = {"float32", "float64", "float16", "bfloat16"}


def export_to_saelens(
    sae: SparseAutoencoder, folder: str | Path, *, overwrite: bool = False
) -> None:
    """Write a folder that SAELens loads: `sae_lens.SAE.load_from_disk(folder)`.

        cfg.json                 architecture, sizes, and what SAELens must not do to the input
        sae_weights.safetensors  W_enc, b_enc, W_dec, b_dec, as they are

    SAELens uses the same names and shapes, so every output is the same. It subtracts b_dec from
    its input unless the file says otherwise, so `"apply_b_dec_to_input": false` is written.
    Raises TypeError if `sae` is anything but one of our two classes, ValueError if it is a stack
    or not finite, FileExistsError if the folder holds files already, unless overwrite=True.
    Format: SAELens 6.54, `sae_lens.saes.sae.SAE.save_model`.
    """
    weights = _weights_of(sae)
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
    folder = _folder_to_write(folder, overwrite)
    save_file(weights, folder / "sae_weights.safetensors")
    _write_json(folder / "cfg.json", config)


def load_from_saelens(folder: str | Path) -> SparseAutoencoder:
    """Read a standard or TopK SAE that SAELens 6 saved, or that `export_to_saelens` wrote.

    The result has SAELens's latent activations and output. What ours does not do is folded in:

        x - b_dec at the input             b_enc - b_dec @ W_enc, the default of SAELens
        latents weighed by their norms     W_enc · |w_i|,  b_enc · |w_i|,  w_i / |w_i|

    The second is TopK's rescale_acts_by_decoder_norm; w_i is row i of W_dec.
    Raises FileNotFoundError if a file is missing; ValueError if it cannot be read, if it holds
    another architecture or no SAE, or if SAELens normalises or reshapes what this SAE reads.
    """
    config = _saelens_config(Path(folder) / "cfg.json")
    path = Path(folder) / "sae_weights.safetensors"
    _require_file(path)
    try:
        weights = load_file(path)
    except Exception as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    _require_portable(weights, str(path))
    if config.get("apply_b_dec_to_input", True):
        weights["b_enc"] = _shifted_b_enc(weights, -1)
    d_sae, d_in = weights["W_dec"].shape
    if config["architecture"] == "standard":
        sae = SparseAutoencoder(d_in, d_sae)
    else:
        sae = TopKSparseAutoencoder(d_in, d_sae, k=config.get("k"))
        if config.get("rescale_acts_by_decoder_norm", False):
            norms = weights["W_dec"].norm(dim=1)
            weights["W_enc"] *= norms
            weights["b_enc"] *= norms
            weights["W_dec"] /= norms.clamp_min(1e-12)[:, None]
    sae.load_state_dict(weights, assign=True)
    _require_known_formula(sae)
    return sae


def export_to_dictionary_learning(
    sae: SparseAutoencoder, folder: str | Path, *, overwrite: bool = False
) -> None:
    """Write a folder that dictionary_learning loads: `utils.load_dictionary(folder, "cpu")`.

        config.json   the class: AutoEncoder, or AutoEncoderTopK and its k
        ae.pt         the state dict of that class, for its own `from_pretrained` too

    dictionary_learning always encodes x - b_dec, so b_enc + b_dec @ W_enc is written for b_enc.
    Raises as `export_to_saelens` does. Format: dictionary_learning 0.1, `utils.load_dictionary`.
    """
    weights = _weights_of(sae)
    d_sae, d_in = weights["W_dec"].shape
    trainer = {"dict_class": "AutoEncoder", "activation_dim": d_in, "dict_size": d_sae}
    state = {
        "encoder.weight": weights["W_enc"].T.contiguous(),
        "encoder.bias": _shifted_b_enc(weights, +1),
        "decoder.weight": weights["W_dec"].T.contiguous(),
    }
    if hasattr(sae, "k"):
        trainer |= {"dict_class": "AutoEncoderTopK", "k": int(sae.k)}
        state["b_dec"] = weights["b_dec"]
        state["k"] = torch.tensor(int(sae.k), dtype=torch.int)
        state["threshold"] = torch.tensor(-1.0)  # below zero: none was learned
    else:
        state["bias"] = weights["b_dec"]
    folder = _folder_to_write(folder, overwrite)
    torch.save(state, folder / "ae.pt")
    _write_json(folder / "config.json", {"trainer": trainer})


def export_to_sparsify(
    sae: SparseAutoencoder, folder: str | Path, *, overwrite: bool = False
) -> None:
    """Write a folder that EleutherAI's sparsify loads: `SparseCoder.load_from_disk(folder)`.

        cfg.json          the sizes and k
        sae.safetensors   encoder.weight, encoder.bias, W_dec, b_dec

    sparsify has TopK only: a plain SAE is written as the TopK that keeps all, k = d_sae. It always
    encodes x - b_dec, so b_enc + b_dec @ W_enc is written for b_enc.
    Raises as `export_to_saelens` does. Format: eai-sparsify 1.3, `SparseCoder.save_to_disk`.
    """
    weights = _weights_of(sae)
    d_sae, d_in = weights["W_dec"].shape
    state = {
        "encoder.weight": weights["W_enc"].T.contiguous(),
        "encoder.bias": _shifted_b_enc(weights, +1),
        "W_dec": weights["W_dec"],
        "b_dec": weights["b_dec"],
    }
    k = int(getattr(sae, "k", d_sae))
    folder = _folder_to_write(folder, overwrite)
    save_file(state, folder / "sae.safetensors")
    config = {"activation": "topk", "d_in": d_in, "num_latents": d_sae, "k": k}
    _write_json(folder / "cfg.json", config)


def _shifted_b_enc(weights: dict[str, torch.Tensor], sign: int) -> torch.Tensor:
    """b_enc ± b_dec @ W_enc, added up in double precision: (d_sae,).

    (x - b_dec) W_enc + b  =  x W_enc + (b - b_dec W_enc): whoever subtracts b_dec first needs
    the larger bias (+1) to see what we see. Coming from there, it is taken off again (-1).
    """
    b_enc, b_dec, W_enc = (weights[name].double() for name in ("b_enc", "b_dec", "W_enc"))
    return (b_enc + sign * (b_dec @ W_enc)).to(weights["b_enc"].dtype)


def _weights_of(sae: SparseAutoencoder) -> dict[str, torch.Tensor]:
    """The four weights, on the CPU. Raise unless they are all that `sae` is."""
    kind = type(sae).__name__  # by its name: in the notebook the class may have been run again
    if kind not in ("SparseAutoencoder", "TopKSparseAutoencoder"):
        raise TypeError(
            "Only a SparseAutoencoder or a TopKSparseAutoencoder can be handed over, "
            f"but a {kind} came."
        )
    weights = {name: w.detach().cpu().contiguous() for name, w in sae.state_dict().items()}
    _require_portable(weights, f"This {kind}")
    _require_known_formula(sae)
    return weights


@torch.no_grad()
def _require_known_formula(sae: SparseAutoencoder) -> None:
    """Raise if `sae` is of an edited class, tried on 16 random inputs: weights carry no code."""
    x = torch.randn(16, len(sae.W_enc), generator=torch.Generator().manual_seed(0)).to(sae.W_enc)
    latent_acts = torch.relu(x @ sae.W_enc + sae.b_enc)
    if hasattr(sae, "k"):
        strongest = latent_acts.topk(sae.k)
        latent_acts = torch.zeros_like(latent_acts).scatter(1, strongest.indices, strongest.values)
    if not torch.allclose(sae(x)[0], latent_acts @ sae.W_dec + sae.b_dec, rtol=1e-3, atol=1e-3):
        raise ValueError(
            f"This {type(sae).__name__} computes something else than ReLU(x W_enc + b_enc), "
            "its k strongest, and h W_dec + b_dec; its weights alone would not carry that."
        )


def _require_portable(weights: dict[str, torch.Tensor], source: str) -> None:
    """Raise unless these are the four weights of one SAE: finite, of one float dtype."""
    if sorted(weights) != ["W_dec", "W_enc", "b_dec", "b_enc"]:
        raise ValueError(f"{source} holds {sorted(weights)}, not the four weights of an SAE.")
    if weights["W_dec"].ndim != 2:
        shape = tuple(weights["W_dec"].shape)
        raise ValueError(f"{source} is not one SAE: W_dec has shape {shape}, not (d_sae, d_in).")
    d_sae, d_in = weights["W_dec"].shape
    shapes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "b_dec": (d_in,)}
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            came = tuple(weights[name].shape)
            raise ValueError(f"{source} has {name} of shape {came}; W_dec asks for {shape}.")
    dtypes = {str(w.dtype).removeprefix("torch.") for w in weights.values()}
    if len(dtypes) > 1 or not dtypes <= DTYPES:
        raise ValueError(f"{source} holds {sorted(dtypes)}; one of {sorted(DTYPES)} is wanted.")
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise ValueError(f"{source} has NaN or infinite values in {name}.")


def _saelens_config(path: Path) -> dict:
    """The settings in cfg.json. Raise if they ask for something that ours does not do."""
    _require_file(path)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        version = config["metadata"]["sae_lens_version"]
        is_new = int(version.split(".")[0]) >= 6
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    except (AttributeError, KeyError, TypeError):
        is_new = False
    if not is_new:
        raise ValueError(f"{path} is not a file of SAELens 6; load and save it there first.")
    allowed = {
        "architecture": ("standard", "topk"),
        "normalize_activations": ("none",),
        "reshape_activations": ("none",),
    }
    for name, values in allowed.items():
        if config.get(name, "none") not in values:
            wanted = " or ".join(map(repr, values))
            raise ValueError(f"{path} says {name}: {config.get(name)!r}; only {wanted} can load.")
    return config


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")


def _folder_to_write(folder: str | Path, overwrite: bool) -> Path:
    """Make the folder. Raise if it is a file, or holds anything and overwrite is not True."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; the name of a folder is wanted.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise FileExistsError(f"{folder} holds files already; pass overwrite=True to write there.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_json(path: Path, config: dict) -> None:
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

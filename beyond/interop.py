"""Hand an SAE to the field's tools and take one back, beyond what sae_lib.saving does.

`save_sae` and `load_sae` already write and read SAELens's folders of ReLU and TopK SAEs. Here:
SAELens's JumpReLU, exports that take a model's raw activations, dictionary_learning, sparsify.
"""

import io
import json
import tempfile
from pathlib import Path

import torch
from sae_lib.guards import finite
from safetensors.torch import load, save
from torch import nn

from sae_lib import SparseAutoencoder
from sae_lib.saving import load_sae, sae_of, save_sae, write_file

# --- SAELens ----------------------------------------------------------------------------


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
    Raises ValueError if scale is not above 0, and as `save_sae` does.
    """
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale must be above 0 and finite, but {scale} came.")
    weights = {name: w.detach().cpu().double() for name, w in sae.named_parameters()}
    mean = torch.as_tensor(mean).cpu().double().expand(weights["b_dec"].shape)
    weights["b_enc"] = scale * weights["b_enc"] - mean @ weights["W_enc"]
    weights["b_dec"] = scale * weights["b_dec"] + mean
    raw = _plain_copy(sae)
    raw.load_state_dict(weights)
    save_sae(raw, folder, overwrite=overwrite)
    path = Path(folder) / "cfg.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["metadata"] |= metadata or {}
    _write_json(path, config)


# --- two tools that always subtract b_dec from the input ----------------------------------


def export_to_dictionary_learning(
    sae: SparseAutoencoder, folder: str | Path, *, overwrite: bool = False
) -> None:
    """Write a folder that dictionary_learning loads: `utils.load_dictionary(folder, "cpu")`.

        config.json   the class: AutoEncoder, or AutoEncoderTopK and its k
        ae.pt         the state dict of that class, for its own `from_pretrained` too

    dictionary_learning always encodes x - b_dec, so b_enc + b_dec @ W_enc is written for b_enc. On
    loading it divides by the length of the decoder's rows, and a row of zeros would become NaN:
    such a latent, which writes nothing, is made silent instead.
    Raises as `save_sae` does. Format: dictionary_learning 0.1, `utils.load_dictionary`.
    """
    sae = _plain_copy(sae)
    d_sae, d_in = sae.W_dec.shape
    writes_nothing = sae.W_dec.norm(dim=1) == 0
    sae.W_enc[:, writes_nothing] = 0
    bias = _shifted_b_enc(sae).masked_fill(writes_nothing, 0)
    sae.W_dec[writes_nothing, 0] = 1
    trainer = {"dict_class": "AutoEncoder", "activation_dim": d_in, "dict_size": d_sae}
    state = {
        "encoder.weight": sae.W_enc.T.contiguous(),
        "encoder.bias": bias,
        "decoder.weight": sae.W_dec.T.contiguous(),
    }
    if hasattr(sae, "k"):
        trainer |= {"dict_class": "AutoEncoderTopK", "k": sae.k}
        state["b_dec"] = sae.b_dec
        state["k"] = torch.tensor(sae.k, dtype=torch.int)
        state["threshold"] = torch.tensor(-1.0)  # below zero: none was learned
    else:
        state["bias"] = sae.b_dec
    content = io.BytesIO()
    torch.save({name: w.detach() for name, w in state.items()}, content)
    _require_free(folder, "config.json", overwrite)
    write_file(Path(folder) / "ae.pt", content.getvalue())
    _write_json(Path(folder) / "config.json", {"trainer": trainer})


def export_to_sparsify(
    sae: SparseAutoencoder, folder: str | Path, *, overwrite: bool = False
) -> None:
    """Write a folder that EleutherAI's sparsify loads: `SparseCoder.load_from_disk(folder)`.

        cfg.json          the sizes and k
        sae.safetensors   encoder.weight, encoder.bias, W_dec, b_dec

    sparsify has TopK only: a plain SAE is written as the TopK that keeps all, k = d_sae. It always
    encodes x - b_dec, so b_enc + b_dec @ W_enc is written for b_enc.
    Raises as `save_sae` does. Format: eai-sparsify 1.3, `SparseCoder.save_to_disk`.
    """
    sae = _plain_copy(sae)
    d_sae, d_in = sae.W_dec.shape
    state = {
        "encoder.weight": sae.W_enc.T.contiguous(),
        "encoder.bias": _shifted_b_enc(sae),
        "W_dec": sae.W_dec,
        "b_dec": sae.b_dec,
    }
    k = getattr(sae, "k", d_sae)
    config = {"activation": "topk", "d_in": d_in, "num_latents": d_sae, "k": k}
    _require_free(folder, "cfg.json", overwrite)
    write_file(Path(folder) / "sae.safetensors", save(state))
    _write_json(Path(folder) / "cfg.json", config)


def _plain_copy(sae: SparseAutoencoder) -> SparseAutoencoder:
    """A ReLU or TopK SAE with these weights, by way of our own file, which refuses all others."""
    with tempfile.TemporaryDirectory() as folder:
        save_sae(sae, folder)
        return load_sae(folder).requires_grad_(False)


def _shifted_b_enc(sae: SparseAutoencoder) -> torch.Tensor:
    """b_enc + b_dec @ W_enc, added up in double precision: (d_sae,).

    (x - b_dec) W_enc + b  =  x W_enc + (b - b_dec W_enc): whoever subtracts b_dec first needs
    the larger bias to see what we see.
    """
    shift = sae.b_dec.double() @ sae.W_enc.double()
    return (sae.b_enc.double() + shift).to(sae.b_enc.dtype)


def _require_free(folder: str | Path, name: str, overwrite: bool) -> None:
    """Make the folder. Raise FileExistsError if it holds an SAE and overwrite is not True."""
    folder = Path(folder)
    if (folder / name).exists() and not overwrite:
        raise FileExistsError(f"{folder} holds an SAE already; pass overwrite=True to replace it.")
    folder.mkdir(parents=True, exist_ok=True)


def _write_json(path: Path, config: dict) -> None:
    write_file(path, (json.dumps(config, indent=2) + "\n").encode())

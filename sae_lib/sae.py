"""The sparse autoencoder, its loss, and its one variant: the heart of the lesson."""

import inspect
import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from sae_lib.validation import require_positive_int, require_seed


def random_directions(n: int, d: int, *, seed: int = 0) -> torch.Tensor:
    """n directions of length 1, uniform on the sphere in d dimensions: (n, d)."""
    require_positive_int(n=n, d=d)
    require_seed(seed=seed)
    directions = torch.randn(n, d, generator=torch.Generator().manual_seed(int(seed)))
    return directions / directions.norm(dim=-1, keepdim=True)


class SparseAutoencoder(nn.Module):
    """Rebuild activations from a few directions of a wide dictionary.

        h     = ReLU(x W_enc + b_enc)     latent_acts     (batch, d_sae), never negative
        x_hat = h W_dec + b_dec           reconstruction  (batch, d_in)

    W_enc (d_in, d_sae), b_enc (d_sae,), W_dec (d_sae, d_in), b_dec (d_in,).
    Row i of W_dec is the direction that latent i writes. It starts random, with length 1;
    W_enc starts as its transpose, so that at first each latent reads what it writes.
    Simplified from Bricken et al. 2023 (who subtract b_dec from x first) and Cunningham et al.
    2023 (who tie encoder and decoder).
    """

    def __init__(self, d_in: int, d_sae: int, *, seed: int = 0):
        super().__init__()
        require_positive_int(d_in=d_in, d_sae=d_sae)
        directions = random_directions(d_sae, d_in, seed=seed)
        self.W_enc = nn.Parameter(directions.T.clone(memory_format=torch.contiguous_format))
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.W_dec = nn.Parameter(directions)
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Which latents fire, and how strongly: (batch, d_in) -> (batch, d_sae)."""
        return torch.relu(x @ self.W_enc + self.b_enc)

    def decode(self, latent_acts: torch.Tensor) -> torch.Tensor:
        """The sum of the directions that fired: (batch, d_sae) -> (batch, d_in)."""
        return latent_acts @ self.W_dec + self.b_dec

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latent_acts = self.encode(x)
        return self.decode(latent_acts), latent_acts

    def loss(self, x: torch.Tensor, l1_coefficient: float) -> "SAELoss":
        x_hat, latent_acts = self(x)
        return sae_loss(x, x_hat, latent_acts, l1_coefficient)

    @torch.no_grad()
    def normalize_decoder_(self) -> None:
        """Set every decoder direction back to length 1, in place."""
        self.W_dec /= self.W_dec.norm(dim=-1, keepdim=True).clamp_min(1e-7)


class SAELoss(NamedTuple):
    """The three numbers of one batch: total = reconstruction + sparsity (λ is already in it)."""

    total: torch.Tensor
    reconstruction: torch.Tensor
    sparsity: torch.Tensor


def sae_loss(
    x: torch.Tensor, x_hat: torch.Tensor, latent_acts: torch.Tensor, l1_coefficient: float
) -> SAELoss:
    """Squared error plus λ times the size of the code, for one batch.

    total = mean over the batch of  sum_j (x_j - x_hat_j)^2  +  λ · sum_i |h_i|

    Summed over the d_in dimensions, not averaged: averaging would divide the first term by
    d_in, and so make the same λ weigh d_in times more (five times, here).
    x, x_hat (batch, d_in); latent_acts (batch, d_sae). Bricken et al. 2023, "Setup".
    """
    reconstruction = (x_hat - x).square().sum(dim=-1).mean(dim=-1)
    sparsity = l1_coefficient * latent_acts.abs().sum(dim=-1).mean(dim=-1)
    return SAELoss(reconstruction + sparsity, reconstruction, sparsity)


class TopKSparseAutoencoder(SparseAutoencoder):
    """Keep the k strongest latents of each input and set the rest to zero.

    h = TopK(ReLU(x W_enc + b_enc)). At most k latents fire, by construction, so no price on
    activity is needed: the loss is the squared error alone, whatever l1_coefficient is, and
    nothing shrinks. Gao et al. 2024, arXiv 2406.04093.
    """

    def __init__(self, d_in: int, d_sae: int, *, k: int, seed: int = 0):
        super().__init__(d_in, d_sae, seed=seed)
        require_positive_int(k=k)
        if k > d_sae:
            raise ValueError(f"k must be at most d_sae={d_sae}, but {k} came.")
        self.k = int(k)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        latent_acts = super().encode(x)
        strongest = latent_acts.topk(self.k, dim=-1)
        return torch.zeros_like(latent_acts).scatter(-1, strongest.indices, strongest.values)

    def loss(self, x: torch.Tensor, l1_coefficient: float = 0.0) -> SAELoss:
        x_hat, latent_acts = self(x)
        return sae_loss(x, x_hat, latent_acts, 0.0)


# --- saving: numbers and a few words of JSON, no code ---------------------------------------


def settings_of(sae: nn.Module) -> dict:
    """What a class keeps besides tensors, such as k: {name: value}."""
    return {name: v for name, v in vars(sae).items() if name not in vars(nn.Module())}


def _is_a(kind: type, name: str) -> bool:
    """Whether `kind` is, or inherits from, a class of that name."""
    return any(base.__name__ == name for base in kind.__mro__)


def save_sae(sae: SparseAutoencoder, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the weights, the class's name and its settings (such as k) to a safetensors file.

    Raises FileExistsError rather than replace a file, unless overwrite=True; FileNotFoundError
    if the folder does not exist; TypeError if it is not an SAE; ValueError if it is a stack, or
    could not be read again: the file is read before it takes its place.
    """
    kind, path = type(sae), Path(path)
    if not _is_a(kind, "SparseAutoencoder"):
        raise TypeError(f"save_sae saves a SparseAutoencoder, but a {kind.__name__} came.")
    if sae.W_dec.ndim != 2:
        raise ValueError("This is a stack of SAEs; save them one by one.")
    settings, known = settings_of(sae), set(inspect.signature(kind).parameters)
    for name, value in settings.items():
        if name not in known or not isinstance(value, (int, float, str, bool, type(None))):
            raise ValueError(
                f"A {kind.__name__} cannot be saved: its `{name}` is not a number or a word that "
                "its constructor takes, so it could not be built again."
            )
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder {path.parent} does not exist; create it first.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already; pass overwrite=True to replace it.")
    tensors = {n: t.detach().cpu().contiguous() for n, t in sae.state_dict().items()}
    unfinished = path.with_name(path.name + ".unfinished")  # so that a crash spoils no old file
    words = {"class": kind.__name__, "settings": json.dumps(settings)}
    try:
        save_file(tensors, unfinished, metadata=words)
        again = load_sae(unfinished)
        if again.__module__ != sae.__module__ or settings_of(again) != settings:
            raise ValueError("read again it is another class, or has other settings.")
        unfinished.replace(path)
    except ValueError as error:
        raise ValueError(f"This {kind.__name__} cannot be saved: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _class_named(name: str) -> type[SparseAutoencoder] | None:
    """This module's own class of that name; else the newest of the SAE classes that exist."""
    if name in ("SparseAutoencoder", "TopKSparseAutoencoder"):
        return globals()[name]
    kinds = [SparseAutoencoder]
    for kind in kinds:  # grows while it is walked through
        kinds.extend(kind.__subclasses__())
    return next((kind for kind in reversed(kinds) if kind.__name__ == name), None)


def load_sae(path: str | Path) -> SparseAutoencoder:
    """Read what `save_sae` wrote, as the class that it was. Reading runs no code from the file.

    Raises FileNotFoundError if there is no such file; ValueError if it holds no SAE, weights
    that are not finite floats, or a class that is not defined here.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            words = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if "k" in words:  # as the first edition wrote it
        k = words["k"]
        words = {"class": "TopKSparseAutoencoder" if k else "SparseAutoencoder"}
        words["settings"] = json.dumps({"k": int(k)} if k.isdecimal() else {"k": k} if k else {})
    if "class" not in words:
        raise ValueError(f"{path} was not written by save_sae: it does not say what SAE it holds.")
    kind = _class_named(words["class"])
    if kind is None:
        raise ValueError(f"{path} holds a {words['class']}; define or import that class first.")
    if "W_dec" not in tensors or tensors["W_dec"].ndim != 2:
        raise ValueError(f"{path} holds {sorted(tensors)}, not the weights of an SAE.")
    d_sae, d_in = tensors["W_dec"].shape
    try:
        sae = kind(d_in, d_sae, **json.loads(words["settings"]))
        own = sae.state_dict()
        for name, tensor in tensors.items():
            if name in own and tensor.is_floating_point() != own[name].is_floating_point():
                raise TypeError(f"{name} holds {tensor.dtype} in place of {own[name].dtype}.")
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{name} holds NaN or infinite values.")
        sae.load_state_dict(tensors, assign=True)
    except Exception as error:
        what = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as a {words['class']}: {what}") from error
    return sae

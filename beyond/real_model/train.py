"""Train an SAE on activations that stay on disk; stopped at any moment, it resumes exactly."""

import json
import math
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from real_model.activations import Activations, mean_and_scale
from sae_lib import SparseAutoencoder


class Standardised:
    """Activations minus their mean, divided by one number, so that squared lengths average 1.

    Mean and number come from the first n_train tokens, which are the ones to train on.
    """

    def __init__(self, activations: Activations, n_train: int):
        if not 1 <= n_train <= len(activations):
            raise ValueError(f"n_train must be from 1 to {len(activations)}, but {n_train} came.")
        self.activations, self.n_train = activations, n_train
        self.mean, self.scale = mean_and_scale(activations.chunks(0, n_train))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """From the model's activations to the SAE's inputs; any leading shape."""
        return (x - self.mean) / self.scale

    def batch(self, size: int, seed: int, step: int) -> torch.Tensor:
        """A random batch (size, width). It depends on seed and step alone: no state to save."""
        rng = torch.Generator().manual_seed(1_000_003 * seed + step)
        return self(self.activations.rows(torch.randint(self.n_train, (size,), generator=rng)))

    def chunks(self, first: int = 0, last: int | None = None):
        """The SAE's inputs first..last in order, a shard at a time."""
        return map(self, self.activations.chunks(first, last))


def train(
    sae: SparseAutoencoder,
    data: Standardised,
    path: str | Path,
    *,
    n_steps: int = 1_500,
    batch_size: int = 512,
    lr: float = 3e-3,
    betas: tuple[float, float] = (0.9, 0.98),
    seed: int = 0,
    save_every: int = 250,
) -> list[dict]:
    """Train in place, keep a checkpoint in the file `path`, and return the log.

    The loop of `train_sae` (AdamW, cosine, renormalised after the step), with λ = 0: a TopK SAE
    needs no price. If `path` exists, it goes on from there and ends with the same weights, bit for
    bit, as if it had never stopped. Raises ValueError if the widths differ, or if `path` belongs
    to another run; then nothing is changed.
    """
    d_in = sae.W_enc.shape[0]
    if d_in != data.activations.width:
        raise ValueError(
            f"The SAE takes activations of width {d_in}, "
            f"but these are of width {data.activations.width}."
        )
    trained = [p for p in sae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr, betas, weight_decay=0.0, fused=True)
    settings = {
        "activations": {k: v for k, v in data.activations.header.items() if k != "n_shards"},
        "sae": [type(sae).__name__, *sae.W_dec.shape, getattr(sae, "k", None)],
        "trained": [name for name, p in sae.named_parameters() if p.requires_grad],
        "n_train": data.n_train,
        "recipe": [n_steps, batch_size, lr, *betas, seed],
    }
    start, log = 0, []
    if Path(path).exists():
        start, log = _resume(Path(path), sae, optimizer, settings)
    for step in tqdm(range(start, n_steps), initial=start, total=n_steps, desc="training"):
        x = data.batch(batch_size, seed, step)
        loss = sae.loss(x, 0.0)
        if step % 50 == 0 or step == n_steps - 1:
            log.append({"step": step, "loss": loss.total.item()})
        sae.zero_grad()
        loss.total.backward()
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / n_steps))
        optimizer.step()
        if sae.W_dec.requires_grad:
            sae.normalize_decoder_()
        if (step + 1) % save_every == 0 or step == n_steps - 1:
            _save(Path(path), sae, optimizer, settings, step + 1, log)
    return log


def _save(path: Path, sae, optimizer, settings: dict, step: int, log: list) -> None:
    """Weights, optimiser and place in one file, which appears whole or not at all."""
    tensors = {f"sae.{name}": w.detach() for name, w in sae.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": value for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    metadata = {"settings": json.dumps(settings), "step": str(step), "log": json.dumps(log)}
    save_file({name: t.contiguous() for name, t in tensors.items()}, part, metadata=metadata)
    part.replace(path)


def _resume(path: Path, sae, optimizer, settings: dict) -> tuple[int, list]:
    """Put weights and optimiser back as they were; return the next step and the log."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise ValueError(f"{path} is not a readable checkpoint; nothing was changed.") from error
    old = json.loads(metadata.get("settings", "{}"))
    if different := [key for key in settings if old.get(key) != settings[key]]:
        raise ValueError(
            f"{path} is the checkpoint of a run with another {' and '.join(different)}; "
            "nothing was changed, give another path."
        )
    sae.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("sae.")})
    state = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, i, key = name.split(".")
            state.setdefault(int(i), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return int(metadata["step"]), json.loads(metadata["log"])


@torch.no_grad()
def evaluate(sae: SparseAutoencoder, data: Standardised, first: int, last: int) -> dict[str, float]:
    """FVU and L0 on the tokens first..last, a shard at a time."""
    error, spread, active, n = 0.0, 0.0, 0.0, 0
    mean = mean_and_scale(data.chunks(first, last))[0]
    for x in data.chunks(first, last):
        x_hat, latent_acts = sae(x)
        error += (x - x_hat).square().sum().item()
        spread += (x - mean).square().sum().item()
        active += (latent_acts > 0).sum().item()
        n += len(x)
    return {"fvu": error / spread, "l0": active / n}

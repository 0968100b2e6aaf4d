"""Train an SAE on activations that stay on disk; stopped at any moment, it resumes exactly."""

from pathlib import Path

import torch
from torch.nn.functional import embedding_bag, normalize
from tqdm import tqdm

from beyond.real_model.activations import Activations, mean_and_scale
from beyond.real_model.guards import (
    OUTLIER,
    cosine,
    fingerprint,
    load_checkpoint,
    locked,
    put_back,
    save_checkpoint,
    spread,
)
from sae_lib import SparseAutoencoder, TopKSparseAutoencoder
from sae_lib.sae import SAELoss, sae_loss


class TopK(TopKSparseAutoencoder):
    """The lesson's TopK SAE at half the price: its loss sums only the k rows that fire."""

    def loss(self, x: torch.Tensor, l1_coefficient: float = 0.0) -> SAELoss:
        strongest = torch.relu(x @ self.W_enc + self.b_enc).topk(self.k, dim=-1)
        x_hat = self.b_dec + embedding_bag(
            strongest.indices, self.W_dec, per_sample_weights=strongest.values, mode="sum"
        )
        return sae_loss(x, x_hat, strongest.values, 0.0)


class SoftFrozen(TopK):
    """A control: no decoder row may turn further from its random start than to cosine 0.8.

    A start in 576 dimensions has nothing to do with any feature, and 0.8 keeps most of it.
    Korznikov et al. 2026, arXiv 2602.14111, who call it the soft-frozen decoder.
    """

    def __init__(self, d_in: int, d_sae: int, *, k: int, seed: int = 0):
        super().__init__(d_in, d_sae, k=k, seed=seed)
        self.register_buffer("start", self.W_dec.detach().clone())

    @torch.no_grad()
    def normalize_decoder_(self) -> None:
        super().normalize_decoder_()
        along = (self.W_dec * self.start).sum(dim=-1, keepdim=True)
        edge = 0.8 * self.start + 0.6 * normalize(self.W_dec - along * self.start, dim=-1)
        self.W_dec.copy_(torch.where(along < 0.8, edge, self.W_dec))


class Standardised:
    """Activations minus their mean, divided by one number, so that squared lengths average 1.

    Mean and number come from the first n_train tokens, which are the ones to train on.
    """

    def __init__(self, activations: Activations, n_train: int):
        if not 1 <= n_train <= len(activations):
            raise ValueError(f"n_train must be from 1 to {len(activations)}, but {n_train} came.")
        self.activations, self.n_train = activations, n_train
        self.mean, self.scale = mean_and_scale(activations.chunks(0, n_train))
        lengths = activations.rows(torch.from_numpy(spread(n_train))).norm(dim=-1)
        self.limit = OUTLIER * lengths.median().item()

    def is_outlier(self, x: torch.Tensor) -> torch.Tensor:
        """Which of the model's activations (..., width) are of a length not trained on: (...)."""
        return x.norm(dim=-1) > self.limit

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

    The loop of `train_sae` (Adam, cosine, renormalised after the step), with λ = 0: a TopK SAE
    needs no price. If `path` exists, it goes on from there and ends with the same weights, bit for
    bit, as if it had never stopped; a finished run goes on where n_steps has grown. Raises
    ValueError if the widths differ, if `path` belongs to another run or to other activations, or
    if another run is at work beside it; then nothing is changed.
    """
    path, (d_in, d_sae) = Path(path), sae.W_enc.shape
    if d_in != data.activations.width:
        raise ValueError(
            f"The SAE takes activations of width {d_in}, "
            f"but these are of width {data.activations.width}."
        )
    trained = [name for name, p in sae.named_parameters() if p.requires_grad]
    optimizer = torch.optim.Adam([getattr(sae, name) for name in trained], lr, betas, fused=True)
    some_rows = data.activations.rows(torch.from_numpy(spread(data.n_train)))
    settings = {
        "the content of the activations": fingerprint([some_rows.numpy()]),
        "n_train": data.n_train,
        "the SAE": [type(sae).__name__, d_in, d_sae, getattr(sae, "k", None)],
        "what is trained": trained,
        "n_steps": n_steps,
        "batch_size": batch_size,
        "lr": lr,
        "betas": list(betas),
        "seed": seed,
    }
    with locked(path.parent):
        start, log = put_back(load_checkpoint(path, settings), sae, optimizer)
        for step in tqdm(range(start, n_steps), initial=start, total=n_steps, desc="training"):
            x = data.batch(batch_size, seed, step)
            loss = sae.loss(x, 0.0)
            if step % 50 == 0 or step == n_steps - 1:
                log.append({"step": step, "loss": loss.total.item()})
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.param_groups[0]["lr"] = lr * cosine(step, n_steps)
            optimizer.step()
            if sae.W_dec.requires_grad:
                sae.normalize_decoder_()
            if (step + 1) % save_every == 0 or step == n_steps - 1:
                save_checkpoint(path, sae, optimizer, settings, step + 1, log)
    return log


@torch.no_grad()
def evaluate(sae: SparseAutoencoder, data: Standardised, first: int, last: int) -> dict[str, float]:
    """FVU and L0 on the tokens first..last, a shard at a time."""
    error, spread_of_x, active, n = 0.0, 0.0, 0.0, 0
    mean = mean_and_scale(data.chunks(first, last))[0]
    for x in data.chunks(first, last):
        x_hat, latent_acts = sae(x)
        error += (x - x_hat).square().sum().item()
        spread_of_x += (x - mean).square().sum().item()
        active += (latent_acts > 0).sum().item()
        n += len(x)
    return {"fvu": error / spread_of_x, "l0": active / n}

"""The SAEs of the page: the lesson's TopK, quicker, and a control that may hardly turn."""

from pathlib import Path

import torch
from torch.nn.functional import embedding_bag, normalize

from sae_lib import TopKSparseAutoencoder, fvu, train_sae
from sae_lib.sae import SAELoss, sae_loss


class TopK(TopKSparseAutoencoder):
    """The lesson's TopK SAE at half the cost: its loss sums only the k rows that fire."""

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


def train(
    sae: TopK,
    x: torch.Tensor,
    path: str | Path,
    *,
    n_steps: int = 600,
    batch_size: int = 512,
    lr: float = 3e-3,
    seed: int = 0,
) -> TopK:
    """`train_sae` on x (n, width), or the weights from the file `path` if it is there.

    The file keeps the settings beside the weights: ValueError if they are not these.
    """
    how = {"n_steps": n_steps, "batch_size": batch_size, "lr": lr, "seed": seed}
    settings = {"kind": type(sae).__name__, "d_sae": len(sae.W_dec), "k": sae.k, "n": len(x)} | how
    path = Path(path)
    if path.is_file():
        saved = torch.load(path, weights_only=True)
        if saved["settings"] != settings:
            raise ValueError(f"{path}: expected {settings}, got {saved['settings']}.")
        sae.load_state_dict(saved["weights"])
        return sae
    train_sae(sae, x, l1_coefficient=0, n_logged=2, **how)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"settings": settings, "weights": sae.state_dict()}, path)
    return sae


@torch.no_grad()
def unexplained(sae: TopK, x: torch.Tensor) -> float:
    """The FVU on x (n, width), whose reconstruction is computed in parts."""
    return fvu(x, torch.cat([sae(part)[0] for part in x.split(2_048)]))

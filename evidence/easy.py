"""10 in 5, looked at closely: width, traps, twins, no ReLU, a frozen decoder, a score."""

import numpy as np
import torch

from experiments.common import (
    CROWDED,
    FALLING,
    RECOVERED,
    SAE_SEEDS,
    base_models,
    data,
    matched,
    n_recovered,
    pool_and_test,
    rounded,
    scores,
    train,
)
from sae_lib import (
    FIRES,
    SparseAutoencoder,
    ToyModel,
    cosine_similarity_matrix,
    fires,
    firing,
    train_saes,
)

CASE = (10, 5, 0.9)
RESET = "same directions, encoder as at the start"


@torch.no_grad()
def roles(sae: SparseAutoencoder, model: ToyModel, x: torch.Tensor) -> tuple[int, int, int]:
    """How many latents are dead, always on (fire on 90 % of inputs), twins (2nd on a feature)."""
    rate = fires(sae.encode(x)).float().mean(dim=0).numpy()
    cosines = cosine_similarity_matrix(sae.W_dec, model.feature_directions).numpy()
    on_a_feature = ((cosines >= RECOVERED) & (rate[:, None] > 0)).sum(axis=0)
    twins = np.maximum(on_a_feature - 1, 0).sum()
    return int((rate == 0).sum()), int((rate > 0.9).sum()), int(twins)


def scores_and_roles(saes: list, model: ToyModel, x: torch.Tensor) -> dict:
    dead, always_on, twins = zip(*(roles(sae, model, x) for sae in saes), strict=True)
    return scores(saes, model, x) | {"dead": dead, "always_on": always_on, "twins": twins}


def width_row(d_sae: int, seed: int) -> dict:
    model = base_models(*CASE)[seed]
    pool, x = pool_and_test(model, seed)
    saes = train(pool, d_sae, l1=0.001)
    return {"d_sae": d_sae, "base_model": seed} | scores_and_roles(saes, model, x)


def widths() -> tuple[dict, list]:
    """The lesson's recipe (λ = 0.001, 8,000 steps) from five latents to eighty."""
    rows = [
        width_row(d_sae, seed)
        for d_sae in (5, 8, 9, 10, 11, 12, 14, 20, 40, 80)
        for seed in base_models(*CASE)
    ]
    return {"sparsity": 0.9, "l1": 0.001, "n_steps": 8_000, "sae_seeds": SAE_SEEDS}, rows


def changed(sae: SparseAutoencoder, how: str, seed: int) -> SparseAutoencoder:
    """A copy of a trapped SAE, changed in one way, to be trained once more."""
    d_sae, d_in = sae.W_dec.shape
    new = SparseAutoencoder(d_in, d_sae + 2 * (how == "two spare latents"), seed=seed)
    with torch.no_grad():
        new.W_dec[:d_sae], new.b_dec[:] = sae.W_dec, sae.b_dec
        new.W_enc[:, :d_sae], new.b_enc[:d_sae] = sae.W_enc, sae.b_enc
        if how == RESET:
            new.W_enc[:], new.b_enc[:] = sae.W_dec.T, 0.0
    return new


def trap() -> tuple[dict, list]:
    """Ten latents for ten features: what frees the runs that stay incomplete, and what does not.

    The trapped runs are trained once more: as they are, with two spare latents beside the ten,
    or with the same directions and the encoder as at a start (W_dec transposed, no bias).
    """
    prices = {f"from scratch, l1 {p}": {"l1": p} for p in (0.01, 0.03, 0.1)}
    prices["from scratch, falling price"] = {"l1": 0.001, **FALLING}
    rows = []
    for seed, model in base_models(*CASE).items():
        pool, x = pool_and_test(model, seed)
        start = train(pool, 10, l1=0.001)
        trapped = [
            s for s in SAE_SEEDS if n_recovered(start[s].W_dec, model.feature_directions) < 10
        ]
        for how in ("trained again", "two spare latents", RESET):
            saes = [changed(start[s], how, s + 100) for s in trapped]
            train_saes(saes, pool, seeds=[s + 100 for s in trapped], n_logged=2)
            rows.append({"what": how, "base_model": seed} | scores_and_roles(saes, model, x))
        for what, recipe in prices.items():
            saes = train(pool, 10, **recipe)
            rows.append({"what": what, "base_model": seed} | scores_and_roles(saes, model, x))
    return {"sparsity": 0.9, "d_sae": 10, "n_steps": 8_000, "sae_seeds": SAE_SEEDS}, rows


def twins() -> tuple[dict, list]:
    """Second latents on a feature at higher prices; `widths` has λ = 0.001."""
    rows = []
    for d_sae, l1 in ((20, 0.01), (20, 0.1), (80, 0.1)):
        for seed, model in base_models(*CASE).items():
            pool, x = pool_and_test(model, seed)
            row = {"d_sae": d_sae, "l1": l1, "base_model": seed}
            rows.append(row | scores_and_roles(train(pool, d_sae, l1=l1), model, x))
    return {"sparsity": 0.9, "n_steps": 8_000, "sae_seeds": SAE_SEEDS}, rows


def loudness() -> tuple[dict, list]:
    """Why wide SAEs keep fewer twins: the encoder at the start times 4, or by 4.

    At the start x_hat is about d_sae / (2 d_in) times too long: twice at 20 latents, 8 times at 80.
    """
    rows = []
    for d_sae, factor in ((20, 1.0), (20, 4.0), (80, 1.0), (80, 0.25)):
        for seed, model in base_models(*CASE).items():
            pool, x = pool_and_test(model, seed)
            saes = [SparseAutoencoder(5, d_sae, seed=s) for s in SAE_SEEDS]
            with torch.no_grad():
                for sae in saes:
                    sae.W_enc *= factor
            train_saes(saes, pool, l1_coefficient=0.1, seeds=SAE_SEEDS, n_logged=2, **CROWDED)
            row = {"d_sae": d_sae, "encoder at the start times": factor, "base_model": seed}
            rows.append(row | scores_and_roles(saes, model, x))
    return {"sparsity": 0.9, "l1": 0.1, "sae_seeds": SAE_SEEDS, **CROWDED}, rows


class LinearSAE(SparseAutoencoder):
    """No ReLU: a latent may be negative, and |h| is what it costs."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.W_enc + self.b_enc


def linear() -> tuple[dict, list]:
    """Without the ReLU: how many of the ten directions, how many of their five axes.

    aligned: latents on some feature. kept_sign: those of them that started on its side.
    """
    rows = []
    for d_sae, recipe in ((20, {}), *((d_sae, FALLING) for d_sae in (10, 20, 40, 80))):
        for seed, model in base_models(*CASE).items():
            pool, x = pool_and_test(model, seed)
            saes = [LinearSAE(5, d_sae, seed=s) for s in SAE_SEEDS]
            starts = [sae.W_dec.detach().clone() for sae in saes]
            train_saes(saes, pool, seeds=SAE_SEEDS, n_logged=2, **recipe)
            truth = model.feature_directions
            opposite = cosine_similarity_matrix(truth, truth).argmin(dim=1)
            row = {"d_sae": d_sae, "falling": bool(recipe), "base_model": seed}
            row |= scores(saes, model, x)
            row |= {"axes": [], "both_signs": [], "aligned": [], "kept_sign": []}
            for sae, start in zip(saes, starts, strict=True):
                on_feature = cosine_similarity_matrix(sae.W_dec, truth) >= RECOVERED
                found = on_feature.any(dim=0)
                row["axes"].append(int((found | found[opposite]).sum()) // 2)
                row["both_signs"].append(int((found & found[opposite]).sum()) // 2)
                row["aligned"].append(int(on_feature.sum()))
                at_first = cosine_similarity_matrix(start, truth)[on_feature]
                row["kept_sign"].append(int((at_first > 0).sum()))
            rows.append(row)
    return {"sparsity": 0.9, "l1": 0.001, "sae_seeds": SAE_SEEDS}, rows


def best_f1(acts: torch.Tensor, is_on: torch.Tensor) -> float:
    """For each feature the latent that reads it best, by F1; the mean over features."""
    fired, is_on = fires(acts).float(), is_on.float()
    total = fired.sum(dim=0)[:, None] + is_on.sum(dim=0)
    return (2 * (fired.T @ is_on) / total).max(dim=0).values.mean().item()


def frozen() -> tuple[dict, list]:
    """A random decoder that is never trained beside a trained one: only the encoder learns."""
    rows = []
    cases = ((20, 0.001, FALLING), (20, 0.03, CROWDED), (80, 0.03, CROWDED))
    for d_sae, l1, recipe in cases:
        for is_frozen in (True, False):
            for seed, model in base_models(*CASE).items():
                pool = data(model, 50_000, seed)[1]
                strengths, x = data(model, 10_000, seed + 1_000)
                saes = [SparseAutoencoder(5, d_sae, seed=s) for s in SAE_SEEDS]
                for sae in saes:
                    sae.W_dec.requires_grad_(not is_frozen)
                train_saes(saes, pool, l1_coefficient=l1, seeds=SAE_SEEDS, n_logged=2, **recipe)
                row = {"d_sae": d_sae, "l1": l1, "frozen": is_frozen, "base_model": seed}
                row |= scores(saes, model, x)
                owners = [matched(sae, model) for sae in saes]
                row["mean_cosine"] = rounded(owner.cosine.mean() for owner in owners)
                with torch.no_grad():
                    acts = [sae.encode(x) for sae in saes]
                read = [firing(strengths, h, o) for h, o in zip(acts, owners, strict=True)]
                row["f1"] = rounded(r.f1.mean() for r in read)
                row["best_f1"] = rounded(best_f1(h, strengths > FIRES) for h in acts)
                rows.append(row)
    return {"sparsity": 0.9, "sae_seeds": SAE_SEEDS}, rows


def flattery() -> tuple[dict, list]:
    """A dictionary that holds one of each opposite pair, five of ten, scored in two ways."""
    rows = []
    for seed, model in base_models(*CASE).items():
        truth = model.feature_directions
        opposite = cosine_similarity_matrix(truth, truth).argmin(dim=1)
        half = truth[torch.arange(10) < opposite]
        best = cosine_similarity_matrix(truth, half).abs().max(dim=1).values
        row = {
            "base_model": seed,
            "rows": len(half),
            "mean best absolute cosine": round(best.mean().item(), 3),
        }
        rows.append(row | {"recovered": n_recovered(half, truth)})
    return {"sparsity": 0.9}, rows

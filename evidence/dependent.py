"""Features that imply one another: absorption, composition, splitting."""

import torch
from torch.nn.functional import normalize

from experiments.common import (
    CROWDED,
    FALLING,
    SAE_SEEDS,
    base_models,
    matched,
    rounded,
    scores,
    train,
)
from sae_lib import ToyModel, cosine_similarity_matrix, fires, live_directions

SETTINGS = {
    "λ = 0.001": {"l1": 0.001},
    "λ falling to 0.001": {"l1": 0.001, **FALLING},
    "λ = 0.01": {"l1": 0.01, **CROWDED},
    "λ = 0.03": {"l1": 0.03, **CROWDED},
    "λ = 0.1": {"l1": 0.1, **CROWDED},
    "k = 1": {"k": 1, **CROWDED},
    "k = 2": {"k": 2, **CROWDED},
}


class Implied(ToyModel):
    """Feature 0 (A) is on for a fifth of the inputs; feature 1 (B) for half of those only."""

    share_with_b = 0.5

    def sample_features(self, n: int, *, seed: int | torch.Generator = 0) -> torch.Tensor:
        if isinstance(seed, list):
            return torch.stack([self.sample_features(n, seed=s) for s in seed])
        rng = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        is_on = torch.rand(n, self.W.shape[-1], generator=rng) >= self.sparsity
        is_on[:, 0] = torch.rand(n, generator=rng) < 0.2
        self.relate(is_on, torch.rand(n, generator=rng) < self.share_with_b)
        return is_on * torch.rand(is_on.shape, generator=rng)

    def relate(self, is_on: torch.Tensor, coin: torch.Tensor) -> None:
        is_on[:, 1] = is_on[:, 0] & coin


class ImpliedSeldom(Implied):
    share_with_b = 0.25


class ImpliedOften(Implied):
    share_with_b = 0.75


class Family(Implied):
    """A parent (feature 0) is on for a fifth of the inputs, always with one of its two children."""

    def relate(self, is_on: torch.Tensor, coin: torch.Tensor) -> None:
        is_on[:, 1] = is_on[:, 0] & coin
        is_on[:, 2] = is_on[:, 0] & ~coin


KINDS = {kind.share_with_b: kind for kind in (ImpliedSeldom, Implied, ImpliedOften)}
# values of the features, share of A's inputs with B, settings
IMPLIED = (
    ("uniform", 0.5, tuple(SETTINGS)),
    ("uniform", 0.25, ("λ = 0.03",)),
    ("uniform", 0.75, ("λ = 0.03",)),
    ("fixed", 0.5, ("λ falling to 0.001", "λ = 0.03", "λ = 0.1", "k = 2")),
)


@torch.no_grad()
def on_and_activations(model: ToyModel, n: int, seed: int, values: str) -> tuple:
    """Which features are on, and activations; "fixed": whatever is on has the value 1."""
    features = model.sample_features(n, seed=seed)
    if values == "fixed":
        features = (features > 0).float()
    return features > 0, model.encode(features)


def implied_row(values: str, share: float, setting: str, seed: int) -> dict:
    """Where the latents of A and B point, and when A's fires: one setting, one base model."""
    model = base_models(10, 5, 0.9, KINDS[share])[seed]
    pool = on_and_activations(model, 50_000, seed, values)[1]
    is_on, x = on_and_activations(model, 10_000, seed + 1_000, values)
    a, b = normalize(model.feature_directions[:2], dim=1)
    saes = train(pool, 20, **SETTINGS[setting])
    row = {"values": values, "share with B": share, "setting": setting, "base_model": seed}
    row |= scores(saes, model, x)
    owners = [matched(sae, model).latent for sae in saes]
    for i, feature in enumerate("AB"):
        rows = torch.stack(
            [sae.W_dec.detach()[owner[i]] for sae, owner in zip(saes, owners, strict=True)]
        )
        for target, direction in {"A": a, "B": b, "A+B": a + b}.items():
            cosines = cosine_similarity_matrix(rows, direction[None])
            row[f"cos({feature}'s, {target})"] = rounded(cosines[:, 0])
    live = [live_directions(sae, x) for sae in saes]
    row["best cos with A+B"] = rounded(
        cosine_similarity_matrix(directions, (a + b)[None]).max() for directions in live
    )
    alone = is_on[:, 0] & ~is_on[:, 2:].any(dim=1)  # A, perhaps with B, and nothing else
    for name, which in {
        "only A": alone & ~is_on[:, 1],
        "only A and B": alone & is_on[:, 1],
    }.items():
        acts = [sae.encode(x[which]).detach() for sae in saes]
        fired = [fires(h)[:, owner[0]] for h, owner in zip(acts, owners, strict=True)]
        row[f"A's fires, {name}"] = rounded(f.float().mean() for f in fired)
    return row


def implied() -> tuple[dict, list]:
    """B is on only when A is: prices, k, how often B is on, and values drawn or fixed."""
    rows = [
        implied_row(values, share, setting, seed)
        for values, share, settings in IMPLIED
        for setting in settings
        for seed in base_models(10, 5, 0.9, KINDS[share])
    ]
    return {"sparsity": 0.9, "d_sae": 20, "sae_seeds": SAE_SEEDS, **SETTINGS}, rows


def family() -> tuple[dict, list]:
    """A parent with two children, strong or weak, narrow against wide: what gets a latent."""
    rows = []
    for strength in (1.0, 0.3):
        for seed, model in base_models(10, 5, 0.9, Family).items():
            volume = torch.ones(10)
            volume[1:3] = strength
            pool, x = (
                model.encode(model.sample_features(n, seed=s) * volume).detach()
                for n, s in ((50_000, seed), (10_000, seed + 1_000))
            )
            p, c, d = normalize(model.feature_directions[:3], dim=1)
            targets = {"P": p, "C1": c, "C2": d, "P+C1": p + c, "P+C2": p + d}
            for d_sae in (8, 20):
                for setting in ("λ falling to 0.001", "λ = 0.1"):
                    saes = train(pool, d_sae, **SETTINGS[setting])
                    live = [live_directions(sae, x) for sae in saes]
                    row = {"children": strength, "d_sae": d_sae, "setting": setting}
                    row |= {"base_model": seed} | scores(saes, model, x)
                    for name, target in targets.items():
                        cosines = [cosine_similarity_matrix(f, target[None]).max() for f in live]
                        row[f"best cos with {name}"] = rounded(cosines)
                    rows.append(row)
    return {"sparsity": 0.9, "sae_seeds": SAE_SEEDS}, rows

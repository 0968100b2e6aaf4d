"""More features than the easy case holds: the map, the rivals, and what an encoder can read."""

import time
from functools import cache
from itertools import combinations

import numpy as np
import torch
from sklearn.decomposition import sparse_encode
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from experiments.common import (
    CROWDED,
    FALLING,
    RECOVERED,
    SAE_SEEDS,
    base_models,
    data,
    n_recovered,
    pool_and_test,
    scores,
    train,
)
from sae_lib import (
    FIRES,
    SparseAutoencoder,
    ToyModel,
    agreement,
    cosine_similarity_matrix,
    fires,
    fvu,
    ica_directions,
    kmeans_directions,
    l0,
    match_features,
    oracle_sae,
    sparse_coding_directions,
    train_saes,
)

MAP = {"l1": (0.001, 0.03, 0.1, 0.15, 0.2, 0.3), "k": (1, 2, 3)}
# (features, dimensions, sparsity), width, and the settings at which its SAEs are compared
CASES = {
    "10 in 5": ((10, 5, 0.9), 20, ({"l1": 0.001} | FALLING, {"k": 1, **CROWDED})),
    "15 in 5": ((15, 5, 0.95), 40, ({"l1": 0.2, **CROWDED}, {"k": 1, **CROWDED})),
    "100 in 30": ((100, 30, 0.95), 200, ({"l1": 0.1, **CROWDED}, {"k": 5, **CROWDED})),
}


def map_row(n_features: int, setting: dict, seed: int) -> dict:
    """One setting on one base model, 16 SAE seeds."""
    model = base_models(n_features, 5, 0.95)[seed]
    pool = data(model, 50_000, seed)[1]
    strengths, x = data(model, 10_000, seed + 1_000)
    saes = train(pool, 40, **setting, **CROWDED)
    row = {"n_features": n_features, **setting, "base_model": seed}
    return row | {"true_l0": round(l0(strengths), 3)} | scores(saes, model, x)


def crowded_map() -> tuple[dict, list]:
    """10, 15 and 20 features in 5 dimensions: what each price and each k finds."""
    settings = [{name: value} for name, values in MAP.items() for value in values]
    rows = [
        map_row(n, setting, seed)
        for n in (10, 15, 20)
        for setting in settings
        for seed in base_models(n, 5, 0.95)
    ]
    return {"sparsity": 0.95, "d_sae": 40, "sae_seeds": SAE_SEEDS, **CROWDED}, rows


@torch.no_grad()
def spare_kinds(sae: SparseAutoencoder, model: ToyModel, x: torch.Tensor) -> dict:
    """What the live latents are that no feature needs: twins, sums of two features, the rest."""
    truth = normalize(model.feature_directions, dim=1)
    i, j = torch.triu_indices(len(truth), len(truth), 1)
    sums = truth[i] + truth[j]
    apart = sums.norm(dim=1) > 0.1  # opposite features have no direction between them
    rate = fires(sae.encode(x)).float().mean(dim=0)
    spare = rate > 0
    spare[match_features(cosine_similarity_matrix(sae.W_dec, truth)).latent] = False
    rows = sae.W_dec[spare]
    twin = cosine_similarity_matrix(rows, truth).max(dim=1).values >= 0.95
    pair = cosine_similarity_matrix(rows, sums[apart]).max(dim=1).values >= 0.95
    return {
        "twins": int(twin.sum()),
        "sums": int((pair & ~twin).sum()),
        "others": int((~pair & ~twin).sum()),
        "sums fire on": float(rate[spare][pair & ~twin].sum()),
        "often": sae.W_dec[rate >= 0.01],
    }


def spares() -> tuple[dict, list]:
    """Complete runs that disagree: their spare latents, and agreement without the rare ones."""
    rows = []
    for n_features, setting in ((10, {"l1": 0.001}), (10, {"k": 1}), (15, {"k": 1})):
        for seed, model in base_models(n_features, 5, 0.95).items():
            pool, x = pool_and_test(model, seed)
            saes = train(pool, 40, **setting, **CROWDED)
            kinds = [spare_kinds(sae, model, x) for sae in saes]
            often = [kind.pop("often") for kind in kinds]
            row = {"n_features": n_features, **setting, "base_model": seed} | scores(saes, model, x)
            row |= {name: [kind[name] for kind in kinds] for name in kinds[0]}
            agreed = [agreement(a, b) for a, b in combinations(often, 2)]
            row["agreement of latents that fire on 1 %"] = round(float(np.mean(agreed)), 3)
            rows.append(row)
    return {"sparsity": 0.95, "d_sae": 40, "sae_seeds": SAE_SEEDS, **CROWDED}, rows


def objective() -> tuple[dict, list]:
    """Is it the training or the objective? Total loss, trained freely and with the true decoder.

    truth: the decoder is the truth and stays so; the encoder alone is trained.
    from the truth: the same start, and the decoder is free.
    """
    rows = []
    for n_features, prices in ((15, (0.001, 0.1, 0.2)), (20, (0.001, 0.1, 0.2, 0.3))):
        for l1 in prices:
            for seed, model in base_models(n_features, 5, 0.95).items():
                pool, x = pool_and_test(model, seed)
                true, free = (oracle_sae(model.feature_directions, l1) for _ in range(2))
                true.W_dec.requires_grad_(False)
                for sae in (true, free):
                    train_saes([sae], pool, l1_coefficient=l1, n_logged=2, **CROWDED)
                saes = train(pool, 40, l1=l1, seeds=SAE_SEEDS[:4], **CROWDED)
                row = {"n_features": n_features, "l1": l1, "base_model": seed}
                groups = {"trained": saes, "truth": [true], "from the truth": [free]}
                with torch.no_grad():
                    for name, group in groups.items():
                        found = [n_recovered(s.W_dec, model.feature_directions) for s in group]
                        row[f"found, {name}"] = found
                        row[f"loss, {name}"] = [float(s.loss(x, l1).total) for s in group]
                        row[f"L0, {name}"] = [l0(s.encode(x)) for s in group]
                        row[f"FVU, {name}"] = [fvu(x, s(x)[0]) for s in group]
                rows.append(row)
    return {"sparsity": 0.95, "d_sae": 40, "sae_seeds": SAE_SEEDS[:4], **CROWDED}, rows


@cache
def compared_saes(case: str) -> dict:
    """{(base model's seed, name of the setting): SAEs}, trained once for all their uses."""
    sizes, d_sae, settings = CASES[case]
    seeds = SAE_SEEDS[:4] if case == "100 in 30" else SAE_SEEDS
    runs = {}
    for seed, model in base_models(*sizes).items():
        for setting in settings:
            name = f"TopK k = {setting['k']}" if "k" in setting else f"SAE λ = {setting['l1']}"
            runs[seed, name] = train(data(model, 20_000, seed)[1], d_sae, seeds=seeds, **setting)
    return runs


def rival_rows(case: str) -> list:
    sizes = CASES[case][0]
    n, rows, seeds = sizes[0], [], SAE_SEEDS[: 2 if case == "100 in 30" else 4]
    methods = {
        "sparse coding, 2n atoms": lambda x, s: sparse_coding_directions(x, 2 * n, seed=s),
        "k-means, 2n clusters": lambda x, s: kmeans_directions(x, 2 * n, seed=s),
        "k-means, n clusters": lambda x, s: kmeans_directions(x, n, seed=s),
        "FastICA, both signs": lambda x, s: ica_directions(x, seed=s),
    }
    for seed, model in base_models(*sizes).items():
        x, truth = data(model, 20_000, seed)[1], model.feature_directions
        for name, method in methods.items():
            started = time.process_time()
            row = {"case": case, "method": name, "base_model": seed}
            row["recovered"] = [n_recovered(method(x, s), truth) for s in seeds]
            row["cpu_seconds_each"] = round((time.process_time() - started) / len(seeds), 2)
            rows.append(row)
    for (seed, name), saes in compared_saes(case).items():
        truth = base_models(*sizes)[seed].feature_directions
        found = [n_recovered(sae.W_dec, truth) for sae in saes]
        rows.append({"case": case, "method": name, "base_model": seed, "recovered": found})
    return rows


def rivals() -> tuple[dict, list]:
    """What other methods recover from the same 20,000 activations."""
    return {"activations": 20_000}, [row for case in CASES for row in rival_rows(case)]


def lasso(x: torch.Tensor, directions: torch.Tensor, alpha: float) -> torch.Tensor:
    """Non-negative sparse coding of every input: min |x - h D|^2 / 2 + alpha |h|_1, h >= 0."""
    x, D = x.double().numpy(), directions.double().numpy()
    code = sparse_encode(x, D, algorithm="lasso_cd", alpha=alpha, positive=True, max_iter=10_000)
    return torch.tensor(code)


def f1_at(acts: torch.Tensor, is_on: np.ndarray, owner: np.ndarray, threshold: float) -> float:
    """Mean over features of F1: is its latent above the threshold when the feature is on?"""
    fired = acts.numpy()[:, owner] > threshold
    both = (fired & is_on).sum(axis=0)
    return float(np.mean(2 * both / (fired.sum(axis=0) + is_on.sum(axis=0))))


def merge_twins(directions: torch.Tensor, acts: torch.Tensor) -> tuple:
    """One direction for all that are at cosine 0.99, their activations summed. Needs no truth."""
    close = cosine_similarity_matrix(directions, directions) >= RECOVERED
    taken, groups = torch.zeros(len(close), dtype=torch.bool), []
    for row in close:
        if not (row & taken).any():
            groups.append(row)
            taken |= row
    groups = torch.stack(groups).to(directions)
    return normalize(groups @ directions, dim=1), acts @ groups.T


def one_layer(model: ToyModel, target: str) -> torch.nn.Linear:
    """The supervised encoder: told the truth, it learns each feature's strength, or on and off."""
    truth = model.feature_directions
    layer = torch.nn.Linear(truth.shape[1], truth.shape[0])
    with torch.no_grad():
        layer.weight[:], layer.bias[:] = truth, 0.0
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2_000)
    strengths, pool = data(model, 100_000, 7)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2_000):
        rows = torch.randint(len(pool), (1_024,), generator=generator)
        truth, out = strengths[rows], layer(pool[rows])
        if target == "on or off":
            loss = binary_cross_entropy_with_logits(out, (truth > FIRES).float())
        else:
            loss = (torch.relu(out) - truth).square().sum(dim=1).mean()
        layer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return layer


ALPHAS = (0.003, 0.01, 0.03, 0.06, 0.1)
THRESHOLDS = {True: np.arange(-3, 3, 0.1), False: np.array([FIRES, *np.arange(0.02, 0.6, 0.02)])}


@torch.no_grad()
def ways_to_read(x: torch.Tensor, model: ToyModel, layers: dict, saes: dict) -> dict:
    """{(method, alpha or None): (code, which column belongs to each feature)}."""
    truth = normalize(model.feature_directions, dim=1)
    own = np.arange(len(truth))
    ways = {(f"one layer, {name}", None): (layer(x), own) for name, layer in layers.items()}
    ways |= {("true dictionary, lasso", a): (lasso(x, truth, a), own) for a in ALPHAS}
    for name, sae in saes.items():
        acts = sae.encode(x)
        live = fires(acts).any(dim=0)
        directions, acts = merge_twins(sae.W_dec[live], acts[:, live])
        owner = match_features(cosine_similarity_matrix(directions, truth)).latent
        ways[f"{name}, its encoder", None] = acts, owner
        for a in ALPHAS:
            ways[f"{name}, lasso on its decoder", a] = lasso(x, directions, a), owner
    return ways


def best_settings(ways: dict, is_on: np.ndarray) -> dict:
    """{method: (F1, alpha, threshold)}: the alpha and threshold at which each method is best."""
    best = {}
    for (name, alpha), (acts, owner) in ways.items():
        for threshold in THRESHOLDS[name == "one layer, on or off"]:
            f1 = f1_at(acts, is_on, owner, threshold)
            if name not in best or f1 > best[name][0]:
                best[name] = f1, alpha, round(float(threshold), 2)
    return best


def reading_rows(case: str) -> list:
    rows, sizes = [], CASES[case][0]
    for seed, model in base_models(*sizes).items():
        layers = {name: one_layer(model, name) for name in ("strength", "on or off")}
        strengths, x = data(model, 1_000, seed + 2_000)
        test_strengths, test_x = data(model, 2_000, seed + 3_000)
        is_on = (test_strengths > FIRES).numpy()
        for i in range(1 if case == "100 in 30" else 4):
            saes = {w: runs[i] for (s, w), runs in compared_saes(case).items() if s == seed}
            choice = ways_to_read(x, model, layers, saes)
            test = ways_to_read(test_x, model, layers, saes)
            best = best_settings(choice, (strengths > FIRES).numpy())
            for name, (_, alpha, threshold) in best.items():
                acts, owner = test[name, alpha]
                row = {"case": case, "base_model": seed, "sae_seed": i, "method": name}
                row |= {"alpha": alpha, "threshold": threshold}
                row["f1"] = round(f1_at(acts, is_on, owner, threshold), 3)
                row["f1 at 0.01"] = round(f1_at(acts, is_on, owner, FIRES), 3)
                rows.append(row)
    return rows


def reading() -> tuple[dict, list]:
    """F1 of which features are on; thresholds and alphas are chosen on inputs of their own."""
    settings = {"chosen on": 1_000, "tested on": 2_000, "alphas": ALPHAS}
    return settings, [row for case in CASES for row in reading_rows(case)]


def encoding() -> tuple[dict, list]:
    """CPU seconds for a million inputs: an SAE's encoder, and scikit-learn's sparse coding."""
    rows = []
    for case, (sizes, d_sae, _) in CASES.items():
        model = next(iter(base_models(*sizes).values()))
        x, sae = data(model, 10_000, 5)[1], SparseAutoencoder(sizes[1], d_sae)
        directions = normalize(model.feature_directions, dim=1)
        with torch.no_grad():
            sae.encode(x)
            started = time.process_time()
            for _ in range(100):
                sae.encode(x)
            row = {"case": case, "sae": round(time.process_time() - started, 3)}
        started = time.process_time()
        lasso(x[:2_000], directions, 0.03)
        row["lasso, scaled"] = round((time.process_time() - started) * 500, 1)
        rows.append(row)
    return {"inputs of the SAE": 1_000_000, "inputs of the lasso": 2_000, "threads": 1}, rows

"""How long it takes and what it recovers: one SAE, many at once, and two other libraries.

    pip install -r benchmarks/requirements.txt
    python benchmarks/compare.py [--quick]

Everything runs in one process, on the same activations, steps and batches.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

sys.modules.setdefault("torchvision", None)  # SAELens would load it, and nothing here needs it

import numpy as np
import torch

from sae_lib import (
    SparseAutoencoder,
    ToyModel,
    cosine_similarity_matrix,
    match_features,
    oracle_sae,
    sae_loss,
    train_sae,
    train_saes,
    train_toy_models,
)
from sae_lib.training import minibatches

L1 = 1e-3


def problems(n: int, n_features: int = 10, n_samples: int = 100_000):
    """n trained base models with n_features in half as many dimensions, one on on average."""
    models = [ToyModel(n_features, n_features // 2, 1 - 1 / n_features, seed=s) for s in range(n)]
    train_toy_models(models, seeds=range(n))
    pools = [m.encode(m.sample_features(n_samples, seed=s)).detach() for s, m in enumerate(models)]
    return models, torch.stack(pools)


def matched(directions: torch.Tensor, model: ToyModel) -> np.ndarray:
    return match_features(cosine_similarity_matrix(directions, model.feature_directions)).cosine


def row(*cells) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def header(title: str, *names: str) -> None:
    print(f"\n{title}\n")
    row(*names)
    row(*["---"] * len(names))


def unit_decoder(W_enc, b_enc, W_dec, b_dec) -> SparseAutoencoder:
    """The equivalent SAE of ours. Both other libraries encode x - b_dec, and leave norms free."""
    norms = W_dec.norm(dim=1)
    sae = SparseAutoencoder(*W_enc.shape)
    with torch.no_grad():
        sae.W_dec.copy_(W_dec / norms[:, None])
        sae.W_enc.copy_(W_enc * norms)
        sae.b_enc.copy_((b_enc - b_dec @ W_enc) * norms)
        sae.b_dec.copy_(b_dec)
    return sae


def ours(pool, seed, steps):
    sae = SparseAutoencoder(5, 20, seed=seed)
    train_sae(sae, pool, seed=seed, n_steps=steps)
    return sae


def saelens(pool, seed, steps, *, lr=3e-4, l1=1.0, schedule="constant", norm=0.1, beta2=0.999):
    """SAELens's own SAETrainer. Defaults: its own. Its L1 is weighted by the decoder norms."""
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(seed)
    config = StandardTrainingSAEConfig(d_in=5, d_sae=20, l1_coefficient=l1, decoder_init_norm=norm)
    sae = StandardTrainingSAE(config)
    trainer_config = SAETrainerConfig(
        total_training_samples=steps * 256,
        train_batch_size_samples=256,
        lr=lr,
        lr_end=lr / 10 if schedule == "constant" else 0.0,
        lr_scheduler_name=schedule,
        adam_beta2=beta2,
    )
    SAETrainer(trainer_config, sae, minibatches(pool, 256, steps, seed)).fit()
    return unit_decoder(*(p.detach() for p in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec)))


def dictionary_learning(pool, seed, steps, *, lr=1e-3, l1=1e-1, ours_like=False):
    """dictionary_learning's StandardTrainer. ours_like: no warm-ups, encoder = decoder^T."""
    from dictionary_learning.trainers.standard import StandardTrainer

    schedule = {"warmup_steps": 0, "sparsity_warmup_steps": None, "decay_start": 1}
    trainer = StandardTrainer(
        steps=steps,
        activation_dim=5,
        dict_size=20,
        layer=0,
        lm_name="",
        lr=lr,
        l1_penalty=l1,
        seed=seed,
        device="cpu",
        **(schedule if ours_like else {}),
    )
    if ours_like:
        with torch.no_grad():
            trainer.ae.decoder.weight /= trainer.ae.decoder.weight.norm(dim=0)
            trainer.ae.encoder.weight.copy_(trainer.ae.decoder.weight.T)
    for step, x in enumerate(minibatches(pool, 256, steps, seed)):
        trainer.update(step, x)
    ae = trainer.ae
    W_enc, W_dec = ae.encoder.weight.detach().T, ae.decoder.weight.detach().T
    return unit_decoder(W_enc, ae.encoder.bias.detach(), W_dec, ae.bias.detach())


def side_by_side(seeds: int, steps: int) -> None:
    models, pools = problems(seeds)
    header(
        f"Side by side: {steps:,} steps of 256, one thread, {seeds} base models",
        *("trainer", "seconds (median)", "recovered of 10", "worst cosine", "loss / oracle's"),
    )
    tuned = {"lr": 3e-2, "l1": L1, "schedule": "cosineannealing", "norm": 1.0}
    runs = {
        "sae_lib, defaults": ours,
        "SAELens, defaults": saelens,
        "SAELens, tuned": lambda *a: saelens(*a, **tuned),
        "SAELens, tuned, beta2 as ours": lambda *a: saelens(*a, **tuned, beta2=0.98),
        "dictionary_learning, defaults": dictionary_learning,
        "dictionary_learning, tuned": lambda *a: dictionary_learning(
            *a, lr=3e-2, l1=L1, ours_like=True
        ),
    }
    for name, run in runs.items():
        seconds, counts, worst, ratios = [], [], [], []
        for seed, (model, pool) in enumerate(zip(models, pools, strict=True)):
            start = time.perf_counter()
            sae = run(pool, seed, steps)
            seconds.append(time.perf_counter() - start)
            cosines = matched(sae.W_dec, model)
            counts.append(int((cosines >= 0.99).sum()))
            worst.append(cosines.min())
            oracle = oracle_sae(model.feature_directions, L1)
            with torch.no_grad():
                loss, best = (sae_loss(pool, *s(pool), L1).total for s in (sae, oracle))
            ratios.append((loss / best).item())
        found = ", ".join(map(str, counts))
        row(name, f"{np.median(seconds):.2f}", found, f"{min(worst):.3f}", f"{max(ratios):.3g}")


def many_at_once(steps: int) -> None:
    _, pools = problems(1)
    header(
        f"Many at once, one thread ({steps} steps each, scaled to 5,000)",
        *("SAEs at once", "seconds per SAE", "times cheaper than one train_sae"),
    )
    train_sae(SparseAutoencoder(5, 20), pools[0], n_steps=100)
    train_saes([SparseAutoencoder(5, 20)], pools[0], n_steps=5)  # loads what tracing needs
    start = time.perf_counter()
    train_sae(SparseAutoencoder(5, 20), pools[0], n_steps=2 * steps)
    single = (time.perf_counter() - start) * 5000 / (2 * steps)
    row("train_sae", f"{single:.3f}", 1)
    for n in (1, 8, 64, 256):
        saes = [SparseAutoencoder(5, 20, seed=s) for s in range(n)]
        start = time.perf_counter()
        train_saes(saes, pools[0], n_steps=steps, seeds=range(n), n_logged=5)
        each = (time.perf_counter() - start) * 5000 / steps / n
        row(n, f"{each:.3f}", f"{single / each:.1f}")


def scaling(seeds: int, steps: int) -> None:
    header(
        f"Scaling: {seeds} seeds each, {steps:,} steps of 256 (recovered: mean, lowest)",
        *("what", "seconds per SAE", "recovered", "of"),
    )

    def measure(what, models, pools, d_sae):
        saes = [SparseAutoencoder(pools.shape[2], d_sae, seed=s) for s in range(seeds)]
        start = time.perf_counter()
        train_saes(saes, pools, n_steps=steps, seeds=range(seeds), n_logged=5)
        each = (time.perf_counter() - start) / seeds
        pairs = zip(saes, models, strict=True)
        found = [int((matched(s.W_dec, m) >= 0.99).sum()) for s, m in pairs]
        n_features = len(models[0].feature_directions)
        row(what, f"{each:.2f}", f"{np.mean(found):.1f}, {min(found)}", n_features)

    models, pools = problems(seeds)
    for d_sae in (10, 20, 40, 80, 160):
        measure(f"d_sae = {d_sae}", models, pools, d_sae)
    for n_samples in (100, 1_000, 10_000, 100_000):
        measure(f"pool of {n_samples:,}", models, pools[:, :n_samples], 20)
    for n_features in (10, 20, 40, 80):
        larger = problems(seeds, n_features, 50_000)
        name = f"{n_features} features in {n_features // 2}, d_sae = {2 * n_features}"
        measure(name, *larger, 2 * n_features)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run: few steps, one seed")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)  # a second one helps large stacks, and hurts when it is busy
    many_at_once(20 if quick else 1_000)
    side_by_side(1 if quick else 5, 2_500 if quick else 5_000)
    scaling(1 if quick else 4, 100 if quick else 5_000)


if __name__ == "__main__":
    main()

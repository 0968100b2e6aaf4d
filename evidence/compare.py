"""How long until all ten features are found: this library, three SAE libraries, scikit-learn.

    pip install -r evidence/requirements.txt
    python -m evidence.compare [--quick]

One process, one thread, the same pools of activations for all. Times are CPU seconds of the
process, so that a busy machine stretches them little; what is compared takes turns, and the
medians are shown. A trainer's time includes building its SAE and drawing its batches.

The settings were searched by hand: learning rate, betas where the library lets one choose them,
initial decoder norm, schedules of λ, BatchTopK, batch size and number of steps, and kept if all
ten were found, at the oracle's loss, on base models 0 to 15 (scikit-learn's, which has no encoder
and finds all ten on most but not all, by the first alone). A cheaper setting may exist for any
of them. The tables are of base models 1000 to 1031.
"""

# ruff: noqa: E402 - two settings come before the imports that they are for
import argparse
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from statistics import median
from unittest.mock import MagicMock

os.environ["TQDM_DISABLE"] = "1"

# Image models and figures that SAELens and overcomplete import, and that nothing here needs:
sys.modules.setdefault("torchvision", None)
for unused in ("overcomplete.models", "overcomplete.visualization"):
    sys.modules.setdefault(unused, MagicMock())

import torch
from sklearn.decomposition import MiniBatchDictionaryLearning

from sae_lib import (
    FALLING_PRICE,
    SparseAutoencoder,
    ToyModel,
    oracle_sae,
    recovered,
    sae_loss,
    train_sae,
    train_saes,
    train_toy_models,
)
from sae_lib.training import minibatches

L1 = 1e-3  # λ, at which every loss is compared


def batches_of(pool, batch_size: int, n_steps: int, seed: int) -> Iterator[torch.Tensor]:
    """The same batches for every library."""
    return minibatches(SparseAutoencoder(pool.shape[-1], 1), pool, batch_size, n_steps, seed)


# --- the trainers: (pool, seed, settings) -> an SAE in this library's form, and a threshold ---
# The threshold is BatchTopK's: below it a latent is silent. Elsewhere it is zero.


def unit_decoder(W_enc, b_enc, W_dec, b_dec, *, reads_b_dec=True) -> SparseAutoencoder:
    """The same function as an SAE of ours: unit decoder rows, and b_dec not subtracted from x."""
    norms = W_dec.norm(dim=1)
    sae = SparseAutoencoder(*W_enc.shape)
    with torch.no_grad():
        sae.W_dec.copy_(W_dec / norms[:, None])
        sae.W_enc.copy_(W_enc * norms)
        sae.b_enc.copy_((b_enc - b_dec @ W_enc if reads_b_dec else b_enc) * norms)
        sae.b_dec.copy_(b_dec)
    return sae


def ours(pool, seed, **settings):
    sae = SparseAutoencoder(5, 20, seed=seed)
    train_sae(sae, pool, seed=seed, **settings)
    return sae, 0.0


def plain_pytorch(pool, seed, *, n_steps, batch_size, l1=L1, lr=3e-2, betas=(0.9, 0.98)):
    """What one would write without any library: four tensors and a loop."""
    start = SparseAutoencoder(5, 20, seed=seed)
    W_enc, b_enc, W_dec, b_dec = params = [
        p.detach().clone().requires_grad_()
        for p in (start.W_enc, start.b_enc, start.W_dec, start.b_dec)
    ]
    optimizer = torch.optim.Adam(params, lr, betas, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for x in batches_of(pool, batch_size, n_steps, seed):
        h = torch.relu(x @ W_enc + b_enc)
        x_hat = h @ W_dec + b_dec
        loss = (x_hat - x).square().sum(dim=-1).mean() + l1 * h.abs().sum(dim=-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            W_dec /= W_dec.norm(dim=-1, keepdim=True)
    return unit_decoder(*(p.detach() for p in params), reads_b_dec=False), 0.0


def saelens(
    pool, seed, *, kind="standard", phases, batch_size, lr, betas, k=1.0, threshold_lr=0.01
):
    """SAELens's SAETrainer. phases: [(λ, steps), ...], one trainer after the other.

    Only the last phase lets the learning rate fall, along a cosine. L1 is weighted by the
    decoder norms, which start at 1; BatchTopK (k) ignores λ.
    """
    import sae_lens
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(seed)
    name = {"standard": "Standard", "topk": "TopK", "batchtopk": "BatchTopK"}[kind]
    shape = {"d_in": 5, "d_sae": 20, "decoder_init_norm": 1.0}
    if kind == "topk":
        shape |= {"k": int(k)}
    if kind == "batchtopk":
        shape |= {"k": k, "topk_threshold_lr": threshold_lr}
    config = getattr(sae_lens, f"{name}TrainingSAEConfig")(**shape)
    sae = getattr(sae_lens, f"{name}TrainingSAE")(config)
    batches = batches_of(pool, batch_size, sum(steps for _, steps in phases), seed)
    for phase, (l1, steps) in enumerate(phases):
        if kind == "standard":
            sae.cfg.l1_coefficient = l1
        last = phase == len(phases) - 1
        trainer_config = SAETrainerConfig(
            total_training_samples=steps * batch_size,
            train_batch_size_samples=batch_size,
            lr=lr,
            lr_end=0.0 if last else lr,
            lr_scheduler_name="cosineannealing" if last else "constant",
            adam_beta1=betas[0],
            adam_beta2=betas[1],
        )
        SAETrainer(trainer_config, sae, batches).fit()
    weights = (p.detach() for p in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec))
    return unit_decoder(*weights), float(getattr(sae, "topk_threshold", 0.0))


def dictionary_learning(
    pool,
    seed,
    *,
    kind="standard",
    phases,
    batch_size,
    lr,
    decay_start=0.01,
    k=1,
    threshold_beta=0.99,
):
    """dictionary_learning's own trainers; their betas are fixed at (0.9, 0.999).

    phases: [(λ, steps), ...]; the loop is the user's, and sets the trainer's l1_penalty. The
    learning rate falls linearly from decay_start on. The encoder starts as the decoder's
    transpose with length 1 (the standard trainer's own start, 0.1, found nothing).
    """
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.standard import StandardTrainer

    n_steps = sum(steps for _, steps in phases)
    settings = {"steps": n_steps, "activation_dim": 5, "dict_size": 20, "layer": 0, "lm_name": ""}
    settings |= {"lr": lr, "seed": seed, "device": "cpu", "warmup_steps": 0}
    settings |= {"decay_start": max(1, int(decay_start * n_steps))}
    if kind == "batchtopk":
        settings |= {"threshold_start_step": n_steps // 2, "threshold_beta": threshold_beta}
        trainer = BatchTopKTrainer(**settings, k=k)
    else:
        trainer = StandardTrainer(**settings, sparsity_warmup_steps=None)
        decoder, encoder = trainer.ae.decoder.weight, trainer.ae.encoder.weight
        with torch.no_grad():
            decoder /= decoder.norm(dim=0)
            encoder.copy_(decoder.T)
    ae = trainer.ae
    batches = batches_of(pool, batch_size, n_steps, seed)
    step = 0
    for l1, steps in phases:
        trainer.l1_penalty = l1
        for _ in range(steps):
            trainer.update(step, next(batches))
            step += 1
    b_dec = ae.b_dec if kind == "batchtopk" else ae.bias
    weights = (ae.encoder.weight.T, ae.encoder.bias, ae.decoder.weight.T, b_dec)
    return unit_decoder(*(p.detach() for p in weights)), float(getattr(ae, "threshold", 0.0))


def overcomplete(pool, seed, *, kind="l1", phases, batch_size, lr, betas, momentum=0.98):
    """overcomplete's train_sae, without its logging and gradient clipping, which cost time.

    phases: [(λ, steps), ...], a call each, with the library's own loss (mse_l1); BatchTopK, one
    latent per input on average, ignores λ. Optimiser and schedule are the user's: AdamW with a
    cosine, as here. The encoder starts as the dictionary's transpose (`untied`).
    """
    from overcomplete.sae import SAE, BatchTopKSAE, train_sae
    from overcomplete.sae.losses import mse_l1

    def squared_error(x, x_hat, pre_codes, codes, dictionary):
        return (x - x_hat).square().mean()

    torch.manual_seed(seed)
    if kind == "batchtopk":
        model = BatchTopKSAE(5, 20, top_k=batch_size, threshold_momentum=momentum)
    else:
        model = SAE(5, 20)
    model.untied(bias=True)
    n_steps = sum(steps for _, steps in phases)
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    batches = batches_of(pool, batch_size, n_steps, seed)
    for l1, steps in phases:  # mse_l1 averages the error over all numbers, and sums all codes
        loss = partial(mse_l1, penalty=l1 / (5 * batch_size))
        if kind == "batchtopk":
            loss = squared_error
        data = islice(batches, steps)
        train_sae(model, data, loss, optimizer, schedule, 1, clip_grad=None, monitoring=0)
    weights = (model.encoder.weight.T, model.encoder.bias, model.get_dictionary(), torch.zeros(5))
    threshold = float(getattr(model, "running_threshold", 0.0))
    return unit_decoder(*(w.detach() for w in weights)), threshold


def scikit_learn(pool, seed, *, n_samples, batch_size, alpha=0.5, max_iter=1):
    """Sparse coding with positive codes: a dictionary, and no encoder. Its directions only."""
    x = pool[:n_samples].numpy()
    settings = {"positive_code": True, "fit_algorithm": "cd", "random_state": seed}
    settings |= {"alpha": alpha, "batch_size": batch_size, "max_iter": max_iter}
    learner = MiniBatchDictionaryLearning(20, **settings)
    return torch.tensor(learner.fit(x / x.std()).components_), None


# --- what is compared ----------------------------------------------------------------------

RUNS = {
    "sae_lib, falling price": (ours, FALLING_PRICE),
    "sae_lib, constant λ (the defaults)": (ours, dict(n_steps=8_000, batch_size=256)),
    "sae_lib, cheapest for this goal": (
        ours,
        dict(n_steps=400, batch_size=128, lr=7e-2, betas=(0.8, 0.9), l1_start=0.2),
    ),
    "overcomplete, L1": (
        overcomplete,
        dict(phases=[(0.2, 200), (L1, 200)], batch_size=128, lr=7e-2, betas=(0.8, 0.9)),
    ),
    "overcomplete, BatchTopK": (
        overcomplete,
        dict(kind="batchtopk", phases=[(0.0, 600)], batch_size=128, lr=5e-2, betas=(0.7, 0.95)),
    ),
    "SAELens, standard": (
        saelens,
        dict(phases=[(0.3, 200), (L1, 200)], batch_size=128, lr=5e-2, betas=(0.8, 0.9)),
    ),
    "dictionary_learning, standard": (
        dictionary_learning,
        dict(phases=[(0.2, 400), (L1, 600)], batch_size=128, lr=5e-2),
    ),
    "scikit-learn, MiniBatchDictionaryLearning": (
        scikit_learn,
        dict(n_samples=20_000, batch_size=64, alpha=0.7),
    ),
}


def problems(seeds, n_features: int = 10, n_samples: int = 100_000):
    """Trained base models, n_features in half as many dimensions, one on on average; pools."""
    seeds = list(seeds)
    models = [ToyModel(n_features, n_features // 2, 1 - 1 / n_features, seed=s) for s in seeds]
    train_toy_models(models, seeds=seeds)
    pools = [
        model.encode(model.sample_features(n_samples, seed=seed)).detach()
        for seed, model in zip(seeds, models, strict=True)
    ]
    return models, torch.stack(pools)


@torch.no_grad()
def loss_ratio(sae: SparseAutoencoder, threshold: float, model: ToyModel, pool) -> float:
    """The SAE's loss at λ = 0.001, over that of an SAE whose dictionary is the truth."""
    latent_acts = sae.encode(pool)
    latent_acts = latent_acts * (latent_acts > threshold)
    loss = sae_loss(pool, sae.decode(latent_acts), latent_acts, L1).total
    return (loss / oracle_sae(model.feature_directions, L1).loss(pool, L1).total).item()


def timed(run):
    """CPU seconds of this process, and what came out."""
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def row(*cells) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def header(title: str, *names: str) -> None:
    print(f"\n{title}\n")
    row(*names)
    row(*["---"] * len(names))


def to_the_goal(n_seeds: int) -> None:
    models, pools = problems(range(1000, 1000 + n_seeds))
    times = {name: [] for name in RUNS}
    found, good = dict.fromkeys(RUNS, 0), dict.fromkeys(RUNS, 0)
    for trainer, settings in RUNS.values():
        trainer(pools[0], 0, **settings)  # what a first call loads is not timed
    for seed, (model, pool) in enumerate(zip(models, pools, strict=True), start=1000):
        for name, (trainer, settings) in RUNS.items():
            spent, (sae, threshold) = timed(lambda: trainer(pool, seed, **settings))  # noqa: B023
            times[name].append(spent)
            directions = sae if threshold is None else sae.W_dec
            complete = recovered(directions.float(), model.feature_directions) == 10
            found[name] += complete
            if threshold is not None and complete:
                good[name] += loss_ratio(sae, threshold, model, pool) <= 1.01
    header(
        f"To the goal: {n_seeds} base models, one thread, one SAE at a time",
        *("trainer", "steps × batch", "all ten found", "and loss within 1 %"),
        *("CPU seconds, median", "times ours"),
    )
    first = median(times[next(iter(RUNS))])
    for name, (trainer, settings) in RUNS.items():
        steps = settings.get("n_steps") or sum(s for _, s in settings.get("phases", []))
        size = (
            f"{steps:,} × {settings['batch_size']}" if steps else f"{settings['n_samples']:,} rows"
        )
        loss = "(has no encoder)" if trainer is scikit_learn else f"{good[name]} of {n_seeds}"
        spent = median(times[name])
        row(name, size, f"{found[name]} of {n_seeds}", loss, f"{spent:.3f}", f"{spent / first:.2f}")


def step_for_step(repeats: int, n_steps: int) -> None:
    _, pools = problems([1000])
    steps = {"n_steps": n_steps, "batch_size": 256}
    phases = {"phases": [(L1, n_steps)], "batch_size": 256}
    adam, batch_topk = {"lr": 1e-2, "betas": (0.9, 0.95)}, {"kind": "batchtopk"}
    runs = {
        "plain PyTorch loop, fused Adam": (plain_pytorch, steps),
        "sae_lib, train_sae": (ours, steps),
        "overcomplete, L1": (overcomplete, phases | adam),
        "overcomplete, BatchTopK": (overcomplete, phases | adam | batch_topk),
        "dictionary_learning, standard": (dictionary_learning, phases | {"lr": 1e-2}),
        "dictionary_learning, BatchTopK": (dictionary_learning, phases | batch_topk | {"lr": 1e-2}),
        "SAELens, standard": (saelens, phases | adam),
        "SAELens, TopK": (saelens, phases | adam | {"kind": "topk"}),
        "SAELens, BatchTopK": (saelens, phases | adam | batch_topk),
    }
    times = {name: [] for name in runs}
    for _ in range(repeats):
        for name, (trainer, settings) in runs.items():
            spent, _ = timed(lambda: trainer(pools[0], 0, **settings))  # noqa: B023
            times[name].append(spent / n_steps)
    header(
        f"Step for step: batches of 256, {n_steps:,} steps, median of {repeats}",
        *("trainer", "µs a step", "of the plain loop's", "of ours"),
    )
    plain, mine, *_ = (median(spent) for spent in times.values())
    for name, spent in times.items():
        step = median(spent)
        row(name, f"{1e6 * step:.0f}", f"{step / plain:.2f}", f"{step / mine:.2f}")


def many_at_once(repeats: int, n_steps: int) -> None:
    _, pools = problems(range(1000, 1004))
    batch = FALLING_PRICE["batch_size"]
    sizes = (1, 8, 64, 256)
    times = {key: [] for b in (256, batch) for key in [("plain", b), *((n, b) for n in sizes)]}
    recipe = FALLING_PRICE | {"n_steps": n_steps}
    for _ in range(repeats):
        for n, size in times:
            settings = recipe | {"batch_size": size}
            if n == "plain":
                plain = {"n_steps": 4 * n_steps, "batch_size": size}
                spent = timed(lambda: plain_pytorch(pools[0], 0, **plain))[0] / 4  # noqa: B023
            else:
                saes = [SparseAutoencoder(5, 20, seed=s) for s in range(n)]
                own = pools[[s % len(pools) for s in range(n)]]
                settings |= {"seeds": range(n), "n_logged": 5}
                spent = timed(lambda: train_saes(saes, own, **settings))[0] / n  # noqa: B023
            times[n, size].append(spent / n_steps)
    header(
        f"Many at once: train_saes, a pool each, {n_steps} steps, median of {repeats}",
        *("SAEs at once", "batch", "µs per SAE and step", "of a plain loop's step"),
        "seconds per SAE, falling price",
    )
    for (n, size), spent in times.items():
        each, plain = median(spent), median(times["plain", size])
        whole = f"{each * FALLING_PRICE['n_steps']:.3f}" if size == batch else ""
        name = "plain PyTorch loop" if n == "plain" else n
        row(name, size, f"{1e6 * each:.1f}", f"1/{plain / each:.1f}", whole)


def scaling(n_seeds: int, **settings) -> None:
    header(
        f"Scaling: the falling price, {n_seeds} seeds each (recovered: mean, lowest)",
        *("what", "CPU seconds per SAE", "recovered", "of"),
    )

    def measure(what, models, pools, d_sae):
        saes = [SparseAutoencoder(pools.shape[2], d_sae, seed=s) for s in range(n_seeds)]
        recipe = FALLING_PRICE | {"seeds": range(n_seeds), "n_logged": 5} | settings
        spent, _ = timed(lambda: train_saes(saes, pools, **recipe))
        pairs = zip(saes, models, strict=True)
        found = [recovered(sae.W_dec, model.feature_directions) for sae, model in pairs]
        n_features = len(models[0].feature_directions)
        mean = sum(found) / n_seeds
        row(what, f"{spent / n_seeds:.2f}", f"{mean:.1f}, {min(found)}", n_features)

    models, pools = problems(range(1000, 1000 + n_seeds))
    for d_sae in (10, 20, 40, 80, 160):
        measure(f"d_sae = {d_sae}", models, pools, d_sae)
    for n_samples in (100, 1_000, 10_000, 100_000):
        measure(f"pool of {n_samples:,}", models, pools[:, :n_samples], 20)
    for n_features in (10, 20, 40, 80):
        larger = problems(range(1000, 1000 + n_seeds), n_features, 50_000)
        name = f"{n_features} features in {n_features // 2}, d_sae = {2 * n_features}"
        measure(name, *larger, 2 * n_features)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run, in a minute or two")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)  # a second one helps large stacks, and hurts when it is busy
    to_the_goal(1 if quick else 32)
    step_for_step(*((1, 200) if quick else (7, 1_000)))
    many_at_once(*((1, 20) if quick else (3, FALLING_PRICE["n_steps"])))
    scaling(*((2,) if quick else (8,)), **({"n_steps": 50} if quick else {}))


if __name__ == "__main__":
    main()

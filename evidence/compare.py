"""How long until all ten features are found: this library, three SAE libraries, scikit-learn.

    python3 -m venv .venv-bench && .venv-bench/bin/pip install -r evidence/requirements.txt
    .venv-bench/bin/python -m evidence.compare

One process, one thread, the same pools and batches for all, taking turns. Times are CPU seconds,
building the SAE and drawing the batches included, and shown as ratios: on a busy machine only those
mean anything. Settings were searched by hand, on toy models 0 to 15; a cheaper one may exist for
any library. The tables are of toy models from 1000 on.
"""

# ruff: noqa: E402 - two settings come before the imports that they are for
import os
import sys
import time
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

import sae_lib
from evidence.common import data, markdown
from sae_lib import FALLING_PRICE, SparseAutoencoder
from sae_lib.baselines import sparse_coding_directions
from sae_lib.training import minibatches

L1 = 1e-3  # λ, at which every training ends


# --- the trainers: (pool, seed, settings) -> directions (20, 5) -----------------------------------
# phases: [(λ, steps), ...], a high price and then the low one, as a user of that library would


def ours(pool, seed, **settings):
    sae = SparseAutoencoder(5, 20, seed=seed)
    return sae_lib.train_sae(sae, pool, seed=seed, **settings).W_dec[-1]


def plain_pytorch(pool, seed, *, n_steps, batch_size):
    """What one would write without any library: four tensors and a loop."""
    sae = SparseAutoencoder(5, 20, seed=seed)
    W_enc, b_enc, W_dec, b_dec = params = list(sae.parameters())
    optimizer = torch.optim.AdamW(params, 3e-2, (0.9, 0.98), weight_decay=0, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for x in minibatches(pool, batch_size, n_steps, seed):
        h = torch.relu(x @ W_enc + b_enc)
        x_hat = h @ W_dec + b_dec
        loss = (x_hat - x).square().sum(dim=-1).mean() + L1 * h.abs().sum(dim=-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            W_dec /= W_dec.norm(dim=-1, keepdim=True)
    return W_dec


def saelens(pool, seed, *, phases, batch_size, lr, betas):
    """SAELens's SAETrainer, once for each phase; the learning rate falls in the last one alone."""
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(seed)
    # its own initial decoder norm, 0.1, finds hardly anything here
    sae = StandardTrainingSAE(StandardTrainingSAEConfig(d_in=5, d_sae=20, decoder_init_norm=1.0))
    batches = minibatches(pool, batch_size, sum(steps for _, steps in phases), seed)
    for l1, steps in phases:
        sae.cfg.l1_coefficient, is_last = l1, l1 == phases[-1][0]
        settings = {"lr": lr, "adam_beta1": betas[0], "adam_beta2": betas[1]}
        settings |= {"lr_scheduler_name": "cosineannealing" if is_last else "constant"}
        settings |= {"lr_end": 0.0 if is_last else lr, "train_batch_size_samples": batch_size}
        config = SAETrainerConfig(**settings, total_training_samples=steps * batch_size)
        SAETrainer(config, sae, batches).fit()
    return sae.W_dec


def dictionary_learning(pool, seed, *, phases, batch_size, lr):
    """dictionary_learning's StandardTrainer, whose betas are fixed at (0.9, 0.999)."""
    from dictionary_learning.trainers.standard import StandardTrainer

    n_steps = sum(steps for _, steps in phases)
    settings = {"steps": n_steps, "activation_dim": 5, "dict_size": 20, "layer": 0, "lm_name": ""}
    settings |= {"lr": lr, "seed": seed, "device": "cpu", "warmup_steps": 0}
    settings |= {"decay_start": max(1, n_steps // 100), "sparsity_warmup_steps": None}
    trainer = StandardTrainer(**settings)
    decoder, encoder = trainer.ae.decoder.weight, trainer.ae.encoder.weight
    with torch.no_grad():  # its own start, an encoder a tenth as long, found nothing
        decoder /= decoder.norm(dim=0)
        encoder.copy_(decoder.T)
    batches = minibatches(pool, batch_size, n_steps, seed)
    prices = (l1 for l1, steps in phases for _ in range(steps))
    for step, (l1, x) in enumerate(zip(prices, batches, strict=True)):
        trainer.l1_penalty = l1
        trainer.update(step, x)
    return decoder.T


def overcomplete(pool, seed, *, phases, batch_size, lr, betas):
    """overcomplete's train_sae with its own loss, without logging and clipping, which cost time."""
    from overcomplete.sae import SAE, train_sae
    from overcomplete.sae.losses import mse_l1

    torch.manual_seed(seed)
    model, n_steps = SAE(5, 20), sum(steps for _, steps in phases)
    model.untied(bias=True)  # the encoder starts as the dictionary's transpose
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas, weight_decay=0, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    batches = minibatches(pool, batch_size, n_steps, seed)
    for l1, steps in phases:  # mse_l1 averages the error over all numbers, and sums all activations
        loss, some = partial(mse_l1, penalty=l1 / (5 * batch_size)), islice(batches, steps)
        train_sae(model, some, loss, optimizer, schedule, 1, clip_grad=None, monitoring=0)
    return model.get_dictionary()


def scikit_learn(pool, seed):
    """MiniBatchDictionaryLearning with non-negative activations, on 20,000 inputs."""
    return sparse_coding_directions(pool[:20_000], 20, seed=seed)


# --- what is compared -----------------------------------------------------------------------------

FAST, SLOWER = {"batch_size": 128, "betas": (0.8, 0.9)}, {"batch_size": 128, "lr": 5e-2}
LONGER = {"phases": [(0.2, 400), (L1, 600)]}
TO_THE_GOAL = {  # name: trainer, batches, settings
    "sae_lib, falling price": (ours, 2_500, FALLING_PRICE),
    "sae_lib, constant λ (the defaults)": (ours, 8_000, {}),
    "sae_lib, cheapest found": (ours, 400, FAST | {"n_steps": 400, "lr": 7e-2, "l1_start": 0.2}),
    "overcomplete": (overcomplete, 400, FAST | {"lr": 7e-2, "phases": [(0.2, 200), (L1, 200)]}),
    "SAELens": (saelens, 400, FAST | SLOWER | {"phases": [(0.3, 200), (L1, 200)]}),
    "dictionary_learning": (dictionary_learning, 1_000, SLOWER | LONGER),
    "scikit-learn, sparse coding": (scikit_learn, None, {}),
}


def in_turns(jobs: dict, inputs) -> tuple[dict, dict]:
    """For each job what it returned, and its CPU time as a share of the first job's, the median."""
    spent, results = {name: [] for name in jobs}, {name: [] for name in jobs}
    for job in jobs.values():
        job(inputs[0])  # what a first call loads is not timed
    for x in inputs:
        for name, job in jobs.items():
            started = time.process_time()
            results[name].append(job(x))
            spent[name].append(time.process_time() - started)
    first = next(iter(spent.values()))
    shares = {n: median(a / b for a, b in zip(of, first, strict=True)) for n, of in spent.items()}
    return results, shares


def to_the_goal(models, pools) -> str:
    jobs = {name: partial(run, seed=0, **how) for name, (run, _, how) in TO_THE_GOAL.items()}
    trained, shares = in_turns(jobs, pools)
    lines = []
    for name, (_, n_steps, settings) in TO_THE_GOAL.items():
        pairs = zip(trained[name], models, strict=True)
        found = [sae_lib.recovered(W.detach(), model.feature_directions) for W, model in pairs]
        size = f"{n_steps:,} × {settings.get('batch_size', 256)}" if n_steps else "20,000 rows"
        lines.append([name, size, f"{found.count(10)} of {len(found)}", f"{shares[name]:.2f}"])
    header = ["to the goal", "batches × size", "all ten found", "CPU time, falling price = 1"]
    return markdown(header, lines)


def step_for_step(x, rounds: int, n_steps: int) -> str:
    def stack(x) -> None:
        saes = [SparseAutoencoder(5, 20, seed=s) for s in range(64)]
        sae_lib.train_saes(saes, x, n_steps=n_steps, batch_size=256)

    one = {"seed": 0, "batch_size": 256}
    phases = one | {"phases": [(L1, n_steps)], "lr": 1e-2}
    adam = phases | {"betas": (0.9, 0.95)}
    jobs = {
        "plain PyTorch loop": partial(plain_pytorch, **one, n_steps=n_steps),
        "sae_lib, train_sae": partial(ours, **one, n_steps=n_steps),
        "sae_lib, one of 64 in train_saes": stack,
        "overcomplete": partial(overcomplete, **adam),
        "dictionary_learning": partial(dictionary_learning, **phases),
        "SAELens": partial(saelens, **adam),
    }
    shares = in_turns(jobs, [x] * rounds)[1]
    lines = [[name, f"{s / (64 if jobs[name] is stack else 1):.2f}"] for name, s in shares.items()]
    return markdown(["a step of 256 inputs", "CPU time, plain loop = 1"], lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    models = [sae_lib.ToyModel(seed=seed) for seed in range(1_000, 1_008)]
    sae_lib.train_toy_models(models)
    pools = [data(model, 100_000, model.seed)[1] for model in models]
    print(step_for_step(pools[0], rounds=9, n_steps=300), flush=True)
    print(f"\n{to_the_goal(models, pools)}")

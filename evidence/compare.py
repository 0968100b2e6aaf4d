"""How long until all ten features are found: this library, three SAE libraries, scikit-learn.

    python3 -m venv .venv-bench && .venv-bench/bin/pip install -r evidence/requirements.txt
    .venv-bench/bin/python -m evidence.compare [--quick]

One process, one thread, the same pools and batches for all, taking turns. Times are CPU seconds,
building the SAE and drawing the batches included, and shown as ratios: on a busy machine only those
mean anything. Settings were searched by hand, on toy models 0 to 15, until all ten were found with
the oracle's loss; a cheaper one may exist for any library. The tables are of toy models from 1000.
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
from sklearn.decomposition import MiniBatchDictionaryLearning

import sae_lib
from evidence.common import data, markdown
from sae_lib import FALLING_PRICE, SparseAutoencoder
from sae_lib.training import minibatches

L1 = 1e-3  # λ, at which every training ends and every loss is compared


def unit_decoder(W_enc, b_enc, W_dec, b_dec) -> SparseAutoencoder:
    """An SAE that reads x - b_dec, as one of ours: unit decoder rows, and it reads x."""
    norms, sae = W_dec.norm(dim=1), SparseAutoencoder(*W_enc.shape)
    with torch.no_grad():
        sae.W_dec.copy_(W_dec / norms[:, None])
        sae.W_enc.copy_(W_enc * norms)
        sae.b_enc.copy_((b_enc - b_dec @ W_enc) * norms)
        sae.b_dec.copy_(b_dec)
    return sae


# --- the trainers: (pool, seed, settings) -> an SAE of ours, or only its directions ---------------
# phases: [(λ, steps), ...], a high price and then the low one, as a user of that library would


def ours(pool, seed, **settings):
    sae = SparseAutoencoder(5, 20, seed=seed)
    sae_lib.train_sae(sae, pool, seed=seed, **settings)
    return sae


def plain_pytorch(pool, seed, *, n_steps, batch_size, l1=L1, lr=3e-2, betas=(0.9, 0.98)):
    """What one would write without any library: four tensors and a loop."""
    sae = SparseAutoencoder(5, 20, seed=seed)
    W_enc, b_enc, W_dec, b_dec = params = list(sae.parameters())
    optimizer = torch.optim.AdamW(params, lr, betas, weight_decay=0, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for x in minibatches(pool, batch_size, n_steps, seed):
        h = torch.relu(x @ W_enc + b_enc)
        x_hat = h @ W_dec + b_dec
        loss = (x_hat - x).square().sum(dim=-1).mean() + l1 * h.abs().sum(dim=-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            W_dec /= W_dec.norm(dim=-1, keepdim=True)
    return sae


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
        config = {
            "lr": lr,
            "lr_end": 0.0 if is_last else lr,
            "train_batch_size_samples": batch_size,
        }
        config |= {"lr_scheduler_name": "cosineannealing" if is_last else "constant"}
        config |= {"adam_beta1": betas[0], "adam_beta2": betas[1]}
        config = SAETrainerConfig(**config, total_training_samples=steps * batch_size)
        SAETrainer(config, sae, batches).fit()
    return unit_decoder(*(p.detach() for p in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec)))


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
    ae = trainer.ae
    weights = (ae.encoder.weight.T, ae.encoder.bias, ae.decoder.weight.T, ae.bias)
    return unit_decoder(*(p.detach() for p in weights))


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
    weights = (model.encoder.weight.T, model.encoder.bias, model.get_dictionary(), torch.zeros(5))
    return unit_decoder(*(w.detach() for w in weights))


def scikit_learn(pool, seed, *, n_samples, batch_size, alpha):
    """Sparse coding with positive codes: directions, and no encoder."""
    x = pool[:n_samples].numpy()
    settings = {"positive_code": True, "fit_algorithm": "cd", "random_state": seed, "max_iter": 1}
    learner = MiniBatchDictionaryLearning(20, alpha=alpha, batch_size=batch_size, **settings)
    return torch.tensor(learner.fit(x / x.std()).components_).float()


# --- what is compared -----------------------------------------------------------------------------

FAST, SLOWER = {"batch_size": 128, "betas": (0.8, 0.9)}, {"batch_size": 128, "lr": 5e-2}
LASSO = {"n_samples": 20_000, "batch_size": 64, "alpha": 0.7}
TO_THE_GOAL = {  # name: trainer, batches, settings
    "sae_lib, falling price": (ours, 2_500, FALLING_PRICE),
    "sae_lib, constant λ (the defaults)": (ours, 8_000, {}),
    "sae_lib, cheapest found": (ours, 400, FAST | {"n_steps": 400, "lr": 7e-2, "l1_start": 0.2}),
    "overcomplete": (overcomplete, 400, FAST | {"lr": 7e-2, "phases": [(0.2, 200), (L1, 200)]}),
    "SAELens": (saelens, 400, FAST | SLOWER | {"phases": [(0.3, 200), (L1, 200)]}),
    "dictionary_learning": (
        dictionary_learning,
        1_000,
        SLOWER | {"phases": [(0.2, 400), (L1, 600)]},
    ),
    "scikit-learn, MiniBatchDictionaryLearning": (scikit_learn, 313, LASSO),
}


def cpu_seconds(job) -> tuple:
    """How long it took, and what came out."""
    started = time.process_time()
    result = job()
    return time.process_time() - started, result


def to_the_goal(models, pools) -> str:
    spent = {name: [] for name in TO_THE_GOAL}
    found, good = dict.fromkeys(TO_THE_GOAL, 0), dict.fromkeys(TO_THE_GOAL, 0)
    for trainer, _, settings in TO_THE_GOAL.values():
        trainer(pools[0], 0, **settings)  # what a first call loads is not timed
    for model, x in zip(models, pools, strict=True):
        oracle = sae_lib.oracle_sae(model.feature_directions, L1).loss(x, L1).total
        for name, (trainer, _, settings) in TO_THE_GOAL.items():
            seconds, sae = cpu_seconds(lambda: trainer(x, model.seed, **settings))  # noqa: B023
            spent[name].append(seconds)
            is_sae = isinstance(sae, SparseAutoencoder)
            directions = sae.W_dec if is_sae else sae
            complete = sae_lib.recovered(directions, model.feature_directions) == 10
            found[name] += complete
            good[name] += bool(complete and is_sae and sae.loss(x, L1).total < 1.01 * oracle)
    first, n = spent["sae_lib, falling price"], len(models)
    lines = []
    for name, (trainer, n_steps, settings) in TO_THE_GOAL.items():
        size = f"{n_steps:,} × {settings.get('batch_size', 256)}"
        loss = "no encoder" if trainer is scikit_learn else f"{good[name]} of {n}"
        lines.append([name, size, f"{found[name]} of {n}", loss, ratio(spent[name], first)])
    header = ["to the goal", "batches × size", "all ten found", "and loss within 1 %"]
    return markdown([*header, "CPU time, falling price = 1"], lines)


def ratio(some, others) -> str:
    """The median of what one took over what the other took in the same round."""
    return f"{median(a / b for a, b in zip(some, others, strict=True)):.2f}"


def step_for_step(x, rounds: int, n_steps: int) -> str:
    one, phases = {"n_steps": n_steps, "batch_size": 256}, {"phases": [(L1, n_steps)]}
    phases |= {"batch_size": 256, "lr": 1e-2}
    adam = phases | {"betas": (0.9, 0.95)}

    def stack() -> None:
        saes = [SparseAutoencoder(5, 20, seed=s) for s in range(64)]
        sae_lib.train_saes(saes, x, n_steps=n_steps // 4, batch_size=256)

    jobs = {  # name: how many times as many steps, and the job
        "plain PyTorch loop": (1, lambda: plain_pytorch(x, 0, **one)),
        "sae_lib, train_sae": (1, lambda: ours(x, 0, **one)),
        "sae_lib, one of 64 in train_saes": (64 / 4, stack),
        "overcomplete": (1, lambda: overcomplete(x, 0, **adam)),
        "dictionary_learning": (1, lambda: dictionary_learning(x, 0, **phases)),
        "SAELens": (1, lambda: saelens(x, 0, **adam)),
    }
    spent = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, (n, job) in jobs.items():
            spent[name].append(cpu_seconds(job)[0] / n)
    lines = [[name, ratio(of, spent["plain PyTorch loop"])] for name, of in spent.items()]
    return markdown(["one step of 256 inputs, L1", "CPU time, plain loop = 1"], lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    quick = "--quick" in sys.argv
    models = [sae_lib.ToyModel(seed=seed) for seed in range(1_000, 1_002 if quick else 1_016)]
    sae_lib.train_toy_models(models)
    pools = [data(model, 100_000, model.seed)[1] for model in models]
    print(step_for_step(pools[0], *((2, 100) if quick else (15, 500))), flush=True)
    print(f"\n{to_the_goal(models, pools)}")

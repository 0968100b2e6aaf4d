"""Train one SAE in several processes, on one machine or on many, from a file of activations.

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # so that a restart meets no dead addresses
    torchrun --standalone --nproc-per-node 2 --max-restarts 3 \
        -m beyond.real_model.train_distributed activations.npy out --d-sae 2048 --k 16

Each process holds the whole SAE and takes its share of every batch; PyTorch's
DistributedDataParallel averages the gradients, so that all processes take the same step: the one
that a single process would take on the whole batch. Started with plain `python -m`, the same
script is that single process. What changes with scale: beyond/scaling.md.
"""

import argparse
import contextlib
import math
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from beyond.real_model.guards import (
    OUTLIER,
    cosine,
    fingerprint,
    first_bad_row,
    load_checkpoint,
    locked,
    outliers,
    put_back,
    save_checkpoint,
    spread,
)
from sae_lib import SparseAutoencoder, TopKSparseAutoencoder
from sae_lib.saving import save_sae


class LossOf(nn.Module):
    """x -> the SAE's loss. DDP sees only what runs inside the forward of the module it wraps."""

    def __init__(self, sae: SparseAutoencoder, l1_coefficient: float):
        super().__init__()
        self.sae, self.l1_coefficient = sae, l1_coefficient

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.sae.loss(x, self.l1_coefficient).total


def open_activations(path: Path) -> np.ndarray:
    """A view of the file (n_rows, d_in) that reads a row only when it is asked for."""
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        activations = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a complete .npy file: {error}") from error
    if not isinstance(activations, np.ndarray):
        raise ValueError(f"{path} holds several arrays; one .npy array is wanted.")
    shape, dtype = activations.shape, activations.dtype
    if dtype.kind != "f" or activations.ndim != 2 or activations.size == 0:
        raise ValueError(f"{path} must hold floats (n_rows, d_in), but {dtype} {shape} came.")
    return activations


def check_rows(path: Path) -> str:
    """The fingerprint of rows spread over the file. ValueError if one is not fit to train on."""
    activations = open_activations(path)
    looked_at = spread(len(activations))
    x = np.asarray(activations[looked_at])
    if (bad := first_bad_row(x)) is not None:
        raise ValueError(f"Row {looked_at[bad]} of {path} holds NaN or infinite values.")
    if (far := outliers(x)).any():
        raise ValueError(
            f"Row {looked_at[far.argmax()]} of {path}, and {far.mean():.1%} of the rows looked at, "
            f"are more than {OUTLIER} times as long as the median row: take such rows out (in "
            "language models, first tokens), or the SAE learns little else."
        )
    return fingerprint([x])


def rows_of_batch(step: int, settings: dict) -> np.ndarray:
    """Which rows make batch number `step`: it depends on seed and step alone."""
    rng = np.random.default_rng([settings["seed"], step])
    return rng.integers(settings["n_rows"], size=settings["batch_size"])


def share_of_batch(path: Path, step: int, settings: dict) -> torch.Tensor:
    """This process's rows of a batch.

    The file is opened anew each time: then the pages read are let go and memory stays flat.
    """
    mine = rows_of_batch(step, settings).reshape(dist.get_world_size(), -1)[dist.get_rank()]
    return torch.from_numpy(open_activations(path)[mine].astype(np.float32))


def why_not_finite(path: Path, steps: Iterable[int], settings: dict) -> str:
    """Which row it was; or, if none, that training ran away."""
    activations = open_activations(path)
    for rows in (rows_of_batch(step, settings) for step in steps):
        if (bad := first_bad_row(activations[rows])) is not None:
            return f"Row {rows[bad]} of {path} holds NaN or infinite values."
    return f"Training ran away to NaN or infinity between steps {steps[0]} and {steps[-1] + 1}."


def prepare(args: argparse.Namespace) -> tuple[SparseAutoencoder, dict, dict | None]:
    """The SAE, the settings and the newest checkpoint; ValueError, in a sentence, if unusable."""
    n_rows, d_in = open_activations(args.activations).shape
    for name in ("d_sae", "batch_size", "n_steps", "checkpoint_every"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, but {getattr(args, name)} came.")
    if args.batch_size % dist.get_world_size():
        raise ValueError(
            f"A batch of {args.batch_size} rows cannot be shared equally by "
            f"{dist.get_world_size()} processes."
        )
    if args.k is None:
        args.l1_coefficient = 1e-3 if args.l1_coefficient is None else args.l1_coefficient
        if not 0 <= args.l1_coefficient < math.inf:
            raise ValueError("l1_coefficient must be finite and not below 0.")
        sae = SparseAutoencoder(d_in, args.d_sae, seed=args.seed)
    elif args.l1_coefficient is not None:
        raise ValueError("A TopK SAE has no price on activity: give --k or --l1-coefficient.")
    elif not 1 <= args.k <= args.d_sae:
        raise ValueError(f"k must be from 1 to d_sae = {args.d_sae}, but {args.k} came.")
    else:
        sae = TopKSparseAutoencoder(d_in, args.d_sae, k=args.k, seed=args.seed)
    if not 0 < args.lr < math.inf:
        raise ValueError("lr must be above 0 and finite.")
    names = ("d_sae", "k", "l1_coefficient", "n_steps", "batch_size", "lr", "seed")
    settings = {"d_in": d_in, "n_rows": n_rows, "content": check_rows(args.activations)}
    settings |= {name: getattr(args, name) for name in names}
    checkpoint = load_checkpoint(args.out / "checkpoint.pt", settings)
    if (args.out / "cfg.json").exists() and checkpoint is None:
        raise ValueError(f"{args.out} holds an SAE that is not from this run: name another folder.")
    return sae, settings, checkpoint


def everyone(value) -> list:
    """What each process has to say, in the order of their ranks."""
    said = [None] * dist.get_world_size()
    dist.all_gather_object(said, value)
    return said


def say(sentence: str) -> None:
    """To stderr, by rank 0, and only on the last attempt that torchrun grants: so, once."""
    attempt, last = map(os.environ.get, ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"))
    if os.environ.get("RANK", "0") == "0" and attempt == last:
        print(sentence, file=sys.stderr, flush=True)


def stop_if_any(problem: str | None) -> None:
    """If any process has a problem, one sentence is said and all end."""
    if problem := next(filter(None, everyone(problem)), None):
        say(problem)
        dist.barrier()  # nobody leaves, and is reported as failed, before it is said
        raise SystemExit(2)


def refuse_restarts_that_hang() -> None:
    """By default torchrun keeps one store of addresses for all attempts: a restarted process then
    waits for one that died (pytorch issue 135712). The variable gives each attempt its own."""
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if shared and os.environ.get("TORCHELASTIC_MAX_RESTARTS") != "0":
        say(
            "Restarts need TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment, and torchrun's "
            "--standalone or --rdzv-backend c10d; without them, leave --max-restarts out."
        )
        time.sleep(0 if os.environ["RANK"] == "0" else 30)  # torchrun ends all once one has left
        raise SystemExit(2)


def train(args: argparse.Namespace, device: torch.device, lock: contextlib.ExitStack) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    problem = first = None
    try:
        sae, settings, checkpoint = prepare(args)
        first = checkpoint["step"] if checkpoint else 0
        if rank == 0:
            lock.enter_context(locked(args.out))
    except (ValueError, TypeError, OSError) as error:
        problem = str(error)
    stop_if_any(problem)
    if len(firsts := set(everyone(first))) > 1:
        stop_if_any(f"The checkpoints end at steps {firsts}: all machines must share {args.out}.")

    sae.to(device)
    optimizer = torch.optim.Adam(sae.parameters(), args.lr, (0.9, 0.98), fused=True)
    put_back(checkpoint, sae, optimizer)
    del checkpoint
    model = DistributedDataParallel(LossOf(sae, args.l1_coefficient), gradient_as_bucket_view=True)
    print(f"rank {rank} of {world}: process {os.getpid()}, from step {first}", flush=True)

    since, begun = first, time.perf_counter()
    for step in range(first, args.n_steps):
        loss = model(share_of_batch(args.activations, step, settings).to(device))
        optimizer.zero_grad()
        loss.backward()  # DDP averages the gradients while they are computed
        optimizer.param_groups[0]["lr"] = args.lr * cosine(step, args.n_steps)
        optimizer.step()
        sae.normalize_decoder_()  # after the step, on every rank: they stay equal
        done = step + 1
        if done % args.checkpoint_every and done < args.n_steps:
            continue
        dist.all_reduce(loss.detach_())
        try:
            if not loss.isfinite():
                raise ValueError(why_not_finite(args.activations, range(since, done), settings))
            if rank == 0:
                save_checkpoint(args.out / "checkpoint.pt", sae, optimizer, settings, done, [])
        except (ValueError, OSError) as error:
            problem = str(error)
        stop_if_any(problem)
        if rank == 0:
            speed = (done - since) * args.batch_size / (time.perf_counter() - begun)
            print(f"step {done}: loss {loss / world:.6g}, {speed:,.0f} rows a second", flush=True)
        since, begun = done, time.perf_counter()
    try:
        if rank == 0:
            save_sae(sae, args.out, overwrite=True)
    except OSError as error:
        problem = f"The SAE could not be written to {args.out}: {error.strerror}."
    stop_if_any(problem)
    if rank == 0:
        print(f"{args.out} holds the SAE after {args.n_steps} steps", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("activations", type=Path, help=".npy file of floats, (n_rows, d_in)")
    parser.add_argument("out", type=Path, help="folder for checkpoint.pt and the SAE")
    parser.add_argument("--d-sae", type=int, required=True, help="number of latents")
    parser.add_argument("--k", type=int, help="a TopK SAE of this k; without it, a plain SAE")
    parser.add_argument("--l1-coefficient", type=float, help="of the plain SAE; 0.001")
    parser.add_argument("--n-steps", type=int, default=1_500)
    parser.add_argument("--batch-size", type=int, default=1_024, help="of all processes together")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint-every", type=int, default=100, help="in steps")
    args = parser.parse_args()

    refuse_restarts_that_hang()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if on_gpu else "cpu"
    if on_gpu:
        torch.cuda.set_device(device)
    alone = {} if "RANK" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    dist.init_process_group("nccl" if on_gpu else "gloo", **alone)
    try:
        with contextlib.ExitStack() as lock:
            train(args, device, lock)
    finally:
        dist.destroy_process_group()
    if "RANK" in os.environ:  # else threads of torch can abort a process that has finished
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main()

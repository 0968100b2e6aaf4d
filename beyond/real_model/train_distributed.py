"""Train one SAE in several processes, on one machine or on many, from a file of activations.

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # so that a restart meets no dead addresses
    torchrun --standalone --nproc-per-node 2 --max-restarts 3 -m real_model.train_distributed \
        activations.npy out --d-sae 2048 --k 16

Each process holds the whole SAE and takes its share of every batch; PyTorch's
DistributedDataParallel averages the gradients, so that all processes take the same step: the one
that a single process would take on the whole batch. Started with plain `python -m`, the same
script is that single process. What changes with scale: docs/scaling.md.
"""

import argparse
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sae_lib import SparseAutoencoder, TopKSparseAutoencoder, save_sae
from sae_lib.training import cosine_schedule

RESULT = "sae.safetensors"


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


def share_of_batch(path: Path, step: int, settings: dict) -> torch.Tensor:
    """This process's rows of batch number `step`: the batch depends on seed and step alone.

    The file is opened anew each time: then the pages read are let go and memory stays flat.
    """
    rng = np.random.default_rng([settings["seed"], step])
    rows = rng.integers(settings["n_rows"], size=settings["batch_size"])
    mine = rows.reshape(dist.get_world_size(), -1)[dist.get_rank()]
    return torch.from_numpy(open_activations(path)[mine].astype(np.float32))


def replace(path: Path, save) -> None:
    """All or nothing: write under another name, then rename, which cannot stop half-way."""
    unfinished = path.with_name(path.name + ".unfinished")
    save(unfinished)
    unfinished.replace(path)


def read_checkpoint(path: Path, settings: dict) -> dict | None:
    """The checkpoint of this very run, None if there is none yet; ValueError if of another."""
    if not path.exists():
        return None
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        made_with = checkpoint["settings"]
    except Exception as error:
        raise ValueError(f"{path} is not a checkpoint of this script.") from error
    for name, value in made_with.items():
        if value != settings[name]:
            raise ValueError(
                f"{path} was made with {name} = {value}, but {settings[name]} came: to go on, "
                "keep the settings; to start anew, name another folder."
            )
    return checkpoint


def prepare(args: argparse.Namespace) -> tuple[SparseAutoencoder, dict, dict | None]:
    """The SAE, the settings and the newest checkpoint; ValueError, in a sentence, if unusable."""
    n_rows, d_in = open_activations(args.activations).shape
    for name in ("batch_size", "n_steps", "checkpoint_every"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, but {getattr(args, name)} came.")
    if args.batch_size % dist.get_world_size():
        raise ValueError(
            f"A batch of {args.batch_size} rows cannot be shared equally by "
            f"{dist.get_world_size()} processes."
        )
    if not (0 < args.lr < math.inf and 0 <= args.l1_coefficient < math.inf):
        raise ValueError("lr must be above 0 and l1_coefficient not below 0, both finite.")
    if args.k is None:
        sae = SparseAutoencoder(d_in, args.d_sae, seed=args.seed)
    else:
        sae = TopKSparseAutoencoder(d_in, args.d_sae, k=args.k, seed=args.seed)
    names = ("d_sae", "k", "l1_coefficient", "n_steps", "batch_size", "lr", "seed")
    settings = {"d_in": d_in, "n_rows": n_rows} | {name: getattr(args, name) for name in names}
    checkpoint, result = read_checkpoint(args.out / "checkpoint.pt", settings), args.out / RESULT
    if result.exists() and (checkpoint is None or checkpoint["step"] < args.n_steps):
        raise ValueError(f"{result} is there already and not from this run: name another folder.")
    args.out.mkdir(parents=True, exist_ok=True)
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


def stop_all(sentence: str) -> None:
    say(sentence)
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


def train(args: argparse.Namespace, device: torch.device) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    try:
        problem, (sae, settings, checkpoint) = None, prepare(args)
        first = checkpoint["step"] if checkpoint else 0
    except (ValueError, TypeError, OSError) as error:
        problem, first = str(error), None
    problems, firsts = zip(*everyone((problem, first)), strict=True)
    if any(problems):
        stop_all(next(filter(None, problems)))
    if len(set(firsts)) > 1:
        stop_all(f"The checkpoints end at steps {firsts}: all machines must share {args.out}.")

    sae.to(device)
    optimizer = torch.optim.AdamW(
        sae.parameters(), args.lr, (0.9, 0.98), weight_decay=0.0, fused=True
    )
    if checkpoint:
        sae.load_state_dict(checkpoint["sae"])
        optimizer.load_state_dict(checkpoint["optimizer"])
    del checkpoint
    model = DistributedDataParallel(LossOf(sae, args.l1_coefficient), gradient_as_bucket_view=True)
    print(f"rank {rank} of {world}: process {os.getpid()}, from step {first}", flush=True)

    since, begun = first, time.perf_counter()
    for step in range(first, args.n_steps):
        loss = model(share_of_batch(args.activations, step, settings).to(device))
        optimizer.zero_grad()
        loss.backward()  # DDP averages the gradients while they are computed
        optimizer.param_groups[0]["lr"] = args.lr * cosine_schedule(step, args.n_steps)
        optimizer.step()
        sae.normalize_decoder_()  # after the step, on every rank: they stay equal
        done = step + 1
        if done % args.checkpoint_every and done < args.n_steps:
            continue
        dist.all_reduce(loss.detach_())
        if not loss.isfinite():
            stop_all(f"The loss became {loss.item()} between steps {since} and {done}.")
        if rank == 0:
            state = {"step": done, "settings": settings, "sae": sae.state_dict()}
            state["optimizer"] = optimizer.state_dict()
            replace(args.out / "checkpoint.pt", lambda path, state=state: torch.save(state, path))
            speed = (done - since) * args.batch_size / (time.perf_counter() - begun)
            print(f"step {done}: loss {loss / world:.6g}, {speed:,.0f} rows a second", flush=True)
        since, begun = done, time.perf_counter()
    if rank == 0:
        replace(args.out / RESULT, lambda path: save_sae(sae, path, overwrite=True))
        print(f"{args.out / RESULT} is the SAE after {args.n_steps} steps", flush=True)
    dist.barrier()  # nobody leaves while the result is being written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("activations", type=Path, help=".npy file of floats, (n_rows, d_in)")
    parser.add_argument("out", type=Path, help="folder for checkpoint.pt and sae.safetensors")
    parser.add_argument("--d-sae", type=int, required=True, help="number of latents")
    parser.add_argument("--k", type=int, help="a TopK SAE of this k; without it, a plain SAE")
    parser.add_argument("--l1-coefficient", type=float, default=1e-3, help="of the plain SAE")
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
        train(args, device)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

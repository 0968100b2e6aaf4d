"""Train one SAE in several processes, on one machine or on many, from a file of activations.

    torchrun --standalone --nproc-per-node 2 -m beyond.train_distributed activations.npy out \
        --d-sae 200 --k 3

It is `train_sae`, and each process takes its share of every batch. The rest is accelerate's: it
averages the gradients, uses the GPUs if there are any, and keeps the checkpoints. beyond/scaling.md
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from sae_lib import SparseAutoencoder, TopKSparseAutoencoder, sae_loss
from sae_lib.saving import save_sae


def train_distributed(
    sae: SparseAutoencoder,
    file: str | Path,
    out: str | Path,
    *,
    l1_coefficient: float = 1e-3,
    n_steps: int = 8_000,
    batch_size: int = 256,
    lr: float = 3e-2,
    seed: int = 0,
    save_every: int = 500,
) -> None:
    """Train on the rows of a .npy file (n_rows, d_in), and save the SAE in the folder `out`.

    One process ends where `train_sae` ends on the same rows, bit for bit. batch_size is that of
    all processes together. Of a TopK SAE the price is not used. Trains in double precision if the
    file holds that, else in single. Every `save_every` steps the state goes to out/checkpoint;
    the same call again goes on from there. Raises ValueError if the processes cannot share a batch
    equally, or the checkpoint is one of another n_steps; FloatingPointError if the loss runs away.
    """
    accelerator = Accelerator(cpu=not torch.cuda.is_available())  # else two CPUs train one each
    checkpoint = Path(out) / "checkpoint"
    rank, n_processes = accelerator.process_index, accelerator.num_processes
    if batch_size % n_processes:
        raise ValueError(f"batch_size: expected a multiple of {n_processes}, got {batch_size}.")
    pool = np.load(file, mmap_mode="r")  # a row is read when it is asked for
    sae.to(torch.float64 if pool.dtype == np.float64 else torch.float32)
    price = 0.0 if hasattr(sae, "k") else l1_coefficient

    optimizer = torch.optim.AdamW(sae.parameters(), lr, (0.9, 0.98), weight_decay=0, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    model, optimizer = accelerator.prepare(sae, optimizer)
    accelerator.register_for_checkpointing(schedule)  # it knows the step, too
    if checkpoint.is_dir():
        accelerator.load_state(checkpoint)
        if schedule.T_max != n_steps:
            raise ValueError(f"n_steps: expected {schedule.T_max} as in {out}, got {n_steps}.")
    first, rng = schedule.last_epoch, torch.Generator().manual_seed(seed)
    for step in range(n_steps):
        rows = torch.randint(len(pool), (batch_size,), generator=rng)  # the same in all processes
        if step < first:
            continue
        mine = rows.chunk(n_processes)[rank]
        x = torch.from_numpy(pool[mine.numpy()]).to(sae.W_dec)
        x_hat, latent_acts = model(x)  # through accelerate's wrapper, or nothing is averaged
        loss = sae_loss(x, x_hat, latent_acts, price).total
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        schedule.step()
        sae.normalize_decoder_()
        if (step + 1) % save_every == 0 or step + 1 == n_steps:
            if not loss.isfinite():
                raise FloatingPointError("Training ran away to NaN or infinity.")
            accelerator.print(f"step {step + 1}: loss {loss:.6g}")
            accelerator.save_state(checkpoint)
    if accelerator.is_main_process:
        save_sae(sae, out, overwrite=True)
    accelerator.end_training()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("file", type=Path, help=".npy file of floats, (n_rows, d_in)")
    parser.add_argument("out", type=Path, help="folder for the SAE and its checkpoint")
    parser.add_argument("--d-sae", type=int, required=True, help="number of latents")
    parser.add_argument("--k", type=int, help="a TopK SAE of this k; without it, a plain SAE")
    parser.add_argument("--l1-coefficient", type=float, default=1e-3, help="of the plain SAE")
    parser.add_argument("--n-steps", type=int, default=2_000)
    parser.add_argument("--batch-size", type=int, default=1_024, help="of all processes together")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = vars(parser.parse_args())
    d_in = np.load(args["file"], mmap_mode="r").shape[1]
    d_sae, k, seed = args.pop("d_sae"), args.pop("k"), args["seed"]
    if k is None:
        sae = SparseAutoencoder(d_in, d_sae, seed=seed)
    else:
        sae = TopKSparseAutoencoder(d_in, d_sae, k=k, seed=seed)
    train_distributed(sae, **args)


if __name__ == "__main__":
    main()

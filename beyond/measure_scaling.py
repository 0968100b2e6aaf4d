"""What changes with scale: the figures of beyond/scaling.md, made by one command.

    .venv-beyond/bin/python -m beyond.measure_scaling

About 10 minutes of one core, 1 GB of disk in a temporary folder. Speeds of one process are per
second of processor time, which other programs disturb little; those of two processes are by the
clock, so let the machine be quiet.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from beyond.real_model.train_distributed import open_activations
from sae_lib import fires
from sae_lib.saving import load_sae

D_IN, BATCH, K = 384, 256, 16


def make_activations(path: Path, n_rows: int, *, d_in: int = D_IN, seed: int = 0) -> None:
    """Rows that sum 8 of 4,096 random directions, drawn in proportion to 1/rank: float16."""
    rng = np.random.default_rng(0)  # the directions are the same in every file
    directions = rng.standard_normal((4_096, d_in)).astype(np.float32) / d_in**0.5
    rng = np.random.default_rng(seed)
    odds = 1 / np.arange(1, 4_097)
    out = np.lib.format.open_memmap(path, "w+", np.float16, (n_rows, d_in))
    for start in range(0, n_rows, 10_000):
        shape = (min(10_000, n_rows - start), 8)
        chosen = rng.choice(4_096, shape, p=odds / odds.sum())
        strengths = rng.random((*shape, 1), dtype=np.float32)
        out[start : start + shape[0]] = (strengths * directions[chosen]).sum(axis=1)


def train(file: Path, out: Path, *settings, processes: int = 0):
    """Run the script: (what it printed, seconds of processor time, most megabytes in memory)."""
    command = [sys.executable]
    if processes:
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["-m", "beyond.real_model.train_distributed", str(file), str(out), "--k", str(K)]
    command += [str(x) for x in settings]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    lines, peak = [], 0.0
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            lines.append(line)
            # it lives: it prints
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            peak = max([peak, *(int(kb) / 1024 for kb in re.findall(r"VmHWM:\s+(\d+)", status))])
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError("".join(lines))
    return "".join(lines), used.ru_utime + used.ru_stime, peak


def n_parameters(d_sae: int, d_in: int = D_IN) -> int:
    return 2 * d_in * d_sae + d_sae + d_in


def widths(folder: Path, widths: tuple[int, ...], n_steps: int) -> None:
    """Speed, memory, checkpoint, dead latents: one process, one thread."""
    file, held_out = folder / "short.npy", folder / "held_out.npy"
    make_activations(file, 40_000, seed=1)  # 30 MB, so that its own pages hardly count
    make_activations(held_out, 20_000, seed=2)
    x = torch.from_numpy(open_activations(held_out)[:].astype(np.float32))
    nothing = ("--d-sae", K, "--n-steps", 1, "--batch-size", 2)  # imports, mostly
    _, cpu_of_nothing, peak_of_nothing = train(file, folder / "nothing", *nothing)
    print(f"## Widths: d_in {D_IN}, k = {K}, {n_steps} steps of {BATCH}\n")
    print(f"The process of a tiny SAE peaks at {peak_of_nothing:,.0f} MB.\n")
    print("| d_sae | M parameters | rows per CPU second | MB above it | 16 P, MB | checkpoint MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    quality = []
    for d_sae in widths:
        out = folder / str(d_sae)
        settings = ("--d-sae", d_sae, "--n-steps", n_steps, "--batch-size", BATCH)
        _, cpu, peak = train(file, out, *settings)
        sae, alive, error, p = load_sae(out), False, 0.0, n_parameters(d_sae)
        with torch.no_grad():
            for part in x.split(1_000):
                x_hat, latent_acts = sae(part)
                alive = alive | fires(latent_acts).any(dim=0)
                error += (part - x_hat).square().sum()
        unexplained = error / (x - x.mean(dim=0)).square().sum()
        quality.append(f"| {d_sae:,} | {1 - alive.float().mean():.1%} | {unexplained:.3f} |")
        print(
            f"| {d_sae:,} | {p / 1e6:.2f} | {n_steps * BATCH / (cpu - cpu_of_nothing):,.0f} "
            f"| {peak - peak_of_nothing:,.0f} | {16 * p / 2**20:,.0f} "
            f"| {(out / 'checkpoint.pt').stat().st_size / 2**20:,.0f} |",
            flush=True,
        )
    print("\n| d_sae | dead on 20,000 held-out rows | FVU there |\n| --- | --- | --- |")
    print("\n".join(quality), flush=True)


def loopback_bytes() -> int:
    """All bytes that programs of this machine have sent to one another by TCP."""
    return int(Path("/proc/net/dev").read_text(encoding="utf-8").split("lo:")[1].split()[8])


def two_processes(folder: Path, d_sae: int, batch: int, n_steps: int, turns: list) -> None:
    """Time a step, and the bytes sent in it, with one process and with two, in turns."""
    print(f"\n## Two processes: d_sae {d_sae:,}, batch {batch:,}, {n_steps} steps, by the clock\n")
    print("| processes | ms a step | MB sent a step |\n| --- | --- | --- |")
    for turn, processes in enumerate(turns):
        settings = ("--d-sae", d_sae, "--batch-size", batch, "--n-steps", n_steps)
        out, before = folder / f"turn{turn}", loopback_bytes()
        printed, *_ = train(folder / "train.npy", out, *settings, processes=processes)
        sent = (loopback_bytes() - before) / n_steps / 1e6
        rows = float(re.findall(r"([\d,]+) rows a second", printed)[-1].replace(",", ""))
        print(f"| {processes} | {1000 * batch / rows:,.0f} | {sent:.1f} |", flush=True)
    print(f"\nGradients: 4 P = {4 * n_parameters(d_sae) / 1e6:.1f} MB")


def reading(folder: Path) -> None:
    """How much of the file a process holds in memory after reading as many rows as it has."""

    def megabytes_of_files():
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(re.search(r"RssFile:\s+(\d+)", status)[1]) / 1024

    path, rng, before = folder / "train.npy", np.random.default_rng(0), megabytes_of_files()
    n_rows = len(open_activations(path))
    print(f"\n## Reading {path.stat().st_size / 2**20:,.0f} MB, {n_rows:,} rows\n")
    for _ in range(n_rows // 1_000):
        open_activations(path)[rng.integers(n_rows, size=1_000)].sum()
    print(f"opened anew for each batch: +{megabytes_of_files() - before:,.0f} MB")
    kept_open = open_activations(path)
    for _ in range(n_rows // 1_000):
        kept_open[rng.integers(n_rows, size=1_000)].sum()
    print(f"kept open: +{megabytes_of_files() - before:,.0f} MB")


def main() -> None:
    small = sys.argv[1:] == ["--small"]  # a trial of the command itself; its figures mean nothing
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_activations(folder / "train.npy", 20_000 if small else 400_000, seed=1)
        print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        reading(folder)
        widths(folder, (64,) if small else (2_048, 8_192, 32_768), n_steps=2 if small else 200)
        if small:
            two_processes(folder, 64, 64, n_steps=2, turns=[2])
        else:
            two_processes(folder, 2_048, 1_024, n_steps=30, turns=[1, 2] * 3)


if __name__ == "__main__":
    main()

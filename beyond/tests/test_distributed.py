"""Several processes: they end where one ends, and one ends where `train_sae` ends."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from beyond import train_distributed as script
from sae_lib import SparseAutoencoder, TopKSparseAutoencoder, train_sae
from sae_lib.saving import load_sae

ROOT = Path(__file__).parents[2]
HOW = dict(n_steps=40, batch_size=64, lr=3e-3)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Sums of 3 of 40 random directions in 16 dimensions: (1000, 16), in double precision."""
    rng = np.random.default_rng(0)
    chosen, strengths = rng.integers(40, size=(1_000, 3)), rng.random((1_000, 3, 1))
    path = tmp_path_factory.mktemp("data") / "rows.npy"
    np.save(path, (strengths * rng.standard_normal((40, 16))[chosen]).sum(axis=1))
    return path


@pytest.fixture(autouse=True)
def a_new_engine():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)  # it is one a process


def largest_difference(a, b):
    b = b.state_dict()
    return max((w - b[name]).abs().max().item() for name, w in a.state_dict().items())


@pytest.mark.parametrize("kind", [SparseAutoencoder, lambda *a: TopKSparseAutoencoder(*a, k=3)])
def test_one_process_is_train_sae(kind, rows, tmp_path):
    script.train_distributed(sae := kind(16, 40), rows, tmp_path, **HOW)
    lesson = kind(16, 40).double()
    train_sae(lesson, torch.from_numpy(np.load(rows)), **HOW)
    assert largest_difference(sae, lesson) == 0
    assert largest_difference(load_sae(tmp_path), lesson.float()) < 1e-6


def test_two_processes_are_one(rows, tmp_path):
    """In double precision, to its last digits. 0 would mean that one did nothing."""
    how = ["--d-sae", "40", "--k", "3", "--n-steps", "40", "--batch-size", "64"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", script.__name__, str(rows), str(tmp_path), *how]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    script.train_distributed(
        sae := TopKSparseAutoencoder(16, 40, k=3), rows, tmp_path / "one", **HOW
    )
    two = load_file(tmp_path / "checkpoint" / "model.safetensors")
    assert 0 < max((w - two[name]).abs().max() for name, w in sae.state_dict().items()) < 1e-12


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(rows, tmp_path, monkeypatch):
    whole, resumed = TopKSparseAutoencoder(16, 40, k=3), TopKSparseAutoencoder(16, 40, k=3)
    script.train_distributed(whole, rows, tmp_path / "whole", **HOW)
    calls = []

    def stop(*arguments, loss=script.sae_loss):
        calls.append(1)
        if len(calls) == 27:
            raise KeyboardInterrupt
        return loss(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(script, "sae_loss", stop)
        stopped = TopKSparseAutoencoder(16, 40, k=3)
        script.train_distributed(stopped, rows, tmp_path / "out", save_every=10, **HOW)
    script.train_distributed(resumed, rows, tmp_path / "out", save_every=10, **HOW)
    assert largest_difference(whole, resumed) == 0
    with pytest.raises(ValueError, match=r"n_steps: expected 40 as in .*, got 50\."):
        script.train_distributed(resumed, rows, tmp_path / "out", **HOW | {"n_steps": 50})

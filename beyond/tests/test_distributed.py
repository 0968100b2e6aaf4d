"""Several processes: the same result as one, nothing lost when one is killed, no silent errors."""

import math
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from shlex import split

import numpy as np
import pytest
import torch

from beyond.real_model import guards, train_distributed
from sae_lib import TopKSparseAutoencoder
from sae_lib.saving import load_sae

ROOT = Path(__file__).parents[2]
# Float32 sums come out a little different in another order: halves of a batch, then their mean.
TOLERANCE = 1e-5  # the largest weight is about 0.3
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
SETTINGS = split("--d-sae 256 --k 8 --n-steps 300 --batch-size 256 --checkpoint-every 50")


@pytest.fixture(scope="module")
def activations(tmp_path_factory):
    """Sums of 8 of 256 random directions in 64 dimensions: (4096, 64), float16 as on a disk."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((256, 64)) / 8
    chosen, strengths = rng.integers(256, size=(4096, 8)), rng.random((4096, 8, 1))
    path = tmp_path_factory.mktemp("data") / "activations.npy"
    np.save(path, (strengths * directions[chosen]).sum(axis=1).astype(np.float16))
    return path


def torchrun(*arguments, processes=2, restarts=0, variables=OWN_STORE):
    """Start it; the caller reads .stdout, where everything is printed, and waits."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += [str(processes), "--max-restarts", str(restarts), "-m", train_distributed.__name__]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_alone(monkeypatch, *arguments):
    """The same script as a single process: this one."""
    monkeypatch.setattr(sys, "argv", ["train_distributed.py", *map(str, arguments)])
    train_distributed.main()


def weights(folder):
    return load_sae(folder).state_dict()


def largest_difference(a, b):
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.fixture(scope="module")
def uninterrupted(activations, tmp_path_factory):
    """The folder of a run in two processes that nobody disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    process = torchrun(activations, folder, *SETTINGS)
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed
    return folder


def test_two_processes_and_one_end_with_the_same_weights(
    uninterrupted, activations, tmp_path, monkeypatch
):
    run_alone(monkeypatch, activations, tmp_path, *SETTINGS)
    difference = largest_difference(weights(uninterrupted), weights(tmp_path))
    assert 0 < difference < TOLERANCE  # 0 would mean that the second process did nothing


def test_the_difference_is_the_order_of_sums_and_nothing_else(
    uninterrupted, activations, tmp_path, monkeypatch
):
    """One process that takes each batch in two halves ends where two processes do, to the bit."""

    def in_halves(self, x):
        return sum(self.sae.loss(half, self.l1_coefficient).total for half in x.chunk(2)) / 2

    monkeypatch.setattr(train_distributed.LossOf, "forward", in_halves)
    run_alone(monkeypatch, activations, tmp_path, *SETTINGS)
    assert largest_difference(weights(uninterrupted), weights(tmp_path)) == 0


def test_a_plain_loop_without_ddp_ends_there_too(activations, tmp_path, monkeypatch):
    """An independent reference: the lesson's loop, written out."""
    run_alone(monkeypatch, activations, tmp_path, *SETTINGS)
    pool = torch.from_numpy(np.load(activations).astype(np.float32))
    sae = TopKSparseAutoencoder(64, 256, k=8, seed=0)
    optimizer = torch.optim.Adam(sae.parameters(), 1e-3, (0.9, 0.98))
    for step in range(300):
        rows = np.random.default_rng([0, step]).integers(4096, size=256)
        loss = sae.loss(pool[rows]).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * step / 300)) / 2
        optimizer.step()
        sae.normalize_decoder_()
    assert largest_difference(sae.state_dict(), weights(tmp_path)) < TOLERANCE


def test_the_plain_sae_too(activations, tmp_path, monkeypatch):
    settings = split("--d-sae 128 --l1-coefficient 0.05 --n-steps 50 --batch-size 256")
    process = torchrun(activations, tmp_path / "two", *settings)
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed
    run_alone(monkeypatch, activations, tmp_path / "one", *settings)
    assert 0 < largest_difference(weights(tmp_path / "two"), weights(tmp_path / "one")) < TOLERANCE


def test_a_killed_worker_costs_at_most_one_checkpoint_interval(
    uninterrupted, activations, tmp_path
):
    """Rank 1 is killed after step 100, rank 0 after step 200; the end is the same to the bit."""
    process = torchrun(activations, tmp_path, *SETTINGS, restarts=2)
    log, processes, to_kill = [], {}, {100: 1, 200: 0}
    with process.stdout:
        for line in process.stdout:
            log.append(line)
            for rank, number in re.findall(r"rank (\d) of 2: process (\d+)", line):
                processes[int(rank)] = int(number)
            for step in map(int, re.findall(r"step (\d+): loss", line)):
                if step in to_kill:
                    os.kill(processes[to_kill.pop(step)], signal.SIGKILL)
    assert process.wait(timeout=600) == 0 and not to_kill, "".join(log)

    starts = [int(step) for step in re.findall(r"rank 0 of 2.*from step (\d+)", "".join(log))]
    assert starts[0] == 0 and 100 <= starts[1] < 200 and 200 <= starts[2] < 300, starts
    assert all(start % 50 == 0 for start in starts)
    assert largest_difference(weights(uninterrupted), weights(tmp_path)) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *(".lock", "cfg.json", "checkpoint.pt", "sae_weights.safetensors"),
    ]


def test_a_run_ended_from_outside_goes_on_with_the_same_command(
    activations, tmp_path, monkeypatch, capsys
):
    arguments = (activations, tmp_path / "out", *SETTINGS)
    run_alone(monkeypatch, activations, tmp_path / "whole", *SETTINGS)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupted_at(150, patched)
        run_alone(patched, *arguments)
    capsys.readouterr()
    run_alone(monkeypatch, *arguments)
    assert "from step 150" in capsys.readouterr().out
    assert largest_difference(weights(tmp_path / "whole"), weights(tmp_path / "out")) == 0

    before = (tmp_path / "out" / "checkpoint.pt").stat().st_mtime_ns
    run_alone(monkeypatch, *arguments)  # once more: there is nothing left to do
    assert (tmp_path / "out" / "checkpoint.pt").stat().st_mtime_ns == before


def interrupted_at(step, patched):
    """Ctrl-C, just after the checkpoint of that step."""

    def interrupt(path, sae, optimizer, settings, done, log, save=guards.save_checkpoint):
        save(path, sae, optimizer, settings, done, log)
        if done == step:
            raise KeyboardInterrupt

    patched.setattr(train_distributed, "save_checkpoint", interrupt)


def test_a_finished_run_can_be_trained_further(activations, tmp_path, monkeypatch, capsys):
    short, long = (split(f"--d-sae 64 --batch-size 64 --n-steps {n}") for n in (20, 50))
    run_alone(monkeypatch, activations, tmp_path, *short)
    before = weights(tmp_path)
    run_alone(monkeypatch, activations, tmp_path, *long)
    assert "from step 20" in capsys.readouterr().out
    assert largest_difference(before, weights(tmp_path)) > 0.001
    assert_refused(monkeypatch, capsys, "n_steps = 50, but 20 came", activations, tmp_path, *short)


def test_an_unfinished_run_keeps_its_number_of_steps(activations, tmp_path, monkeypatch, capsys):
    settings = split("--d-sae 64 --batch-size 64 --checkpoint-every 10 --n-steps")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupted_at(10, patched)
        run_alone(patched, activations, tmp_path, *settings, 20)
    message = "n_steps = 20, but 50 came"
    assert_refused(monkeypatch, capsys, message, activations, tmp_path, *settings, 50)


# --- files: one run a folder, whole or not there ---------------------------------------------


def test_a_second_run_in_the_folder_is_refused_until_the_first_is_gone(
    activations, tmp_path, monkeypatch, capsys
):
    settings = split("--d-sae 64 --batch-size 64 --checkpoint-every 10 --n-steps")
    with in_background(activations, tmp_path, *settings, 5_000) as first:
        assert any("step 10:" in line for line in first.stdout)
        message = f"Another run is at work in {tmp_path}"
        assert_refused(monkeypatch, capsys, message, activations, tmp_path, *settings, 5_000)
        first.kill()  # without a chance to tidy up
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupted_at(torch.load(tmp_path / "checkpoint.pt")["step"] + 10, patched)
        run_alone(patched, activations, tmp_path, *settings, 5_000)


@pytest.mark.skipif(sys.platform == "win32", reason="needs ulimit")
def test_a_full_disk_gets_one_sentence_and_leaves_no_half_file(activations, tmp_path):
    """A limit on the size of a file stops a write half-way, as a full disk does."""
    settings = split("--d-sae 64 --batch-size 64 --n-steps 10")
    with in_background(activations, tmp_path / "out", *settings, limit_kb=50) as process:
        _printed, complaint = process.communicate(timeout=600)
    assert process.returncode == 2
    assert re.fullmatch(r"\S+checkpoint.pt could not be written \(.*\): make room .*\n", complaint)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def in_background(*arguments, limit_kb="unlimited"):
    """The script as a process of its own."""
    command = [sys.executable, "-m", train_distributed.__name__, *map(str, arguments)]
    return subprocess.Popen(
        ["bash", "-c", f'ulimit -f {limit_kb}; exec "$@"', "bash", *command],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# --- bad input: one sentence, a non-zero exit, nothing overwritten ---------------------------


def no_file(activations, folder):
    return [folder / "nowhere.npy"], "There is no file"


def truncated(activations, folder):
    (folder / "cut.npy").write_bytes(activations.read_bytes()[:-100])
    return [folder / "cut.npy"], "not a complete .npy file"


def no_array(activations, folder):
    (folder / "text.npy").write_text("not an array")
    return [folder / "text.npy"], "not a complete .npy file"


def empty_file(activations, folder):
    (folder / "empty.npy").touch()
    return [folder / "empty.npy"], "not a complete .npy file"


def several_arrays(activations, folder):
    np.savez(folder / "two.npz", np.ones(2), np.ones(3))
    return [folder / "two.npz"], "several arrays"


def one_dimension(activations, folder):
    np.save(folder / "flat.npy", np.ones(64))
    return [folder / "flat.npy"], r"\(n_rows, d_in\), but float64 \(64,\) came"


def no_rows(activations, folder):
    np.save(folder / "none.npy", np.ones((0, 64)))
    return [folder / "none.npy"], r"but float64 \(0, 64\) came"


def integers(activations, folder):
    np.save(folder / "tokens.npy", np.ones((9, 64), int))
    return [folder / "tokens.npy"], "must hold floats"


def not_finite(activations, folder):
    np.save(folder / "nan.npy", np.full((9, 64), np.nan))
    return [folder / "nan.npy"], "Row 0 of .*nan.npy holds NaN or infinite values"


def one_row_not_finite(activations, folder):
    x = np.load(activations)
    x[1234, 5] = np.inf
    np.save(folder / "inf.npy", x)
    return [folder / "inf.npy"], "Row 1234 of .*inf.npy holds NaN"


def one_row_not_finite_among_many(activations, folder):
    """Not among those that are looked at before the start."""
    x = np.ones((30_000, 2), np.float32)
    x[1::3] = np.nan
    np.save(folder / "many.npy", x)
    return [folder / "many.npy"], r"Row \d+ of .*many.npy holds NaN"


def first_tokens(activations, folder):
    """As in a decoder model: each 16th row, the first of a text, is far longer than the others."""
    x = np.load(activations).astype(np.float32)
    x[::16] *= 150
    np.save(folder / "first.npy", x)
    return [folder / "first.npy"], "Row 0 of .*, and 6.2% of the rows .* more than 10 times"


def k_and_a_price(activations, folder):
    return [activations, "--k", "4", "--l1-coefficient", "0.1"], "give --k or --l1-coefficient"


def k_too_large(activations, folder):
    return [activations, "--k", "65"], "k must be from 1 to d_sae = 64, but 65 came"


def k_of_zero(activations, folder):
    return [activations, "--k", "0"], "k must be from 1"


def no_latents(activations, folder):
    return [activations, "--d-sae", "0"], "d_sae must be"


def no_checkpoints(activations, folder):
    return [activations, "--checkpoint-every", "0"], "checkpoint_every must be at least 1"


def learning_rate_of_nan(activations, folder):
    return [activations, "--lr", "nan"], "lr must be above 0"


BAD = [no_file, truncated, no_array, empty_file, several_arrays, one_dimension, no_rows, integers]
BAD += [not_finite, one_row_not_finite, one_row_not_finite_among_many, first_tokens]
BAD += [k_and_a_price, k_too_large, k_of_zero, no_latents, no_checkpoints, learning_rate_of_nan]


def assert_refused(monkeypatch, capsys, sentence, *arguments):
    with pytest.raises(SystemExit) as stopped:
        run_alone(monkeypatch, *arguments)
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert re.search(sentence, printed) and printed.count("\n") == 1, printed


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_bad_input_gets_one_sentence_and_writes_nothing(
    bad, activations, tmp_path, monkeypatch, capsys
):
    (file, *settings), sentence = bad(activations, tmp_path)
    settings = split("--d-sae 64 --n-steps 4 --batch-size 8 --checkpoint-every 2") + settings
    assert_refused(monkeypatch, capsys, sentence, file, tmp_path / "out", *settings)
    assert not list(tmp_path.glob("out/[!.]*"))


def test_nothing_of_another_run_is_overwritten(activations, tmp_path, monkeypatch, capsys):
    out, settings = tmp_path / "out", split("--d-sae 64 --n-steps 2 --batch-size 8")
    run_alone(monkeypatch, activations, out, *settings)
    capsys.readouterr()
    np.save(tmp_path / "narrow.npy", np.ones((4096, 32), np.float32))
    files = {path: path.read_bytes() for path in out.iterdir()}

    refused = [monkeypatch, capsys]
    another_width = "made with d_in = 64, but 32 came"
    assert_refused(*refused, another_width, tmp_path / "narrow.npy", out, *settings)
    x = np.load(activations)
    x[1234, 5] += 1
    np.save(tmp_path / "other.npy", x)
    another_content = r"made with content = \w+, but \w+ came"
    assert_refused(*refused, another_content, tmp_path / "other.npy", out, *settings)
    assert_refused(*refused, "with seed = 0, but 1 came", activations, out, *settings, "--seed", 1)
    assert files == {path: path.read_bytes() for path in out.iterdir()}

    (out / "checkpoint.pt").unlink()
    assert_refused(*refused, "not from this run", activations, out, *settings)
    (out / "checkpoint.pt").write_text("something else")
    assert_refused(*refused, "not a checkpoint that can be read", activations, out, *settings)
    assert (out / "checkpoint.pt").read_text() == "something else"
    in_a_file = [activations, out / "checkpoint.pt", *settings]
    assert_refused(*refused, "checkpoint.pt", *in_a_file)


def test_under_torchrun_the_sentence_comes_once(activations, tmp_path):
    settings = split("--d-sae 64 --n-steps 2 --batch-size 9")
    process = torchrun(activations, tmp_path / "out", *settings)
    printed, _ = process.communicate(timeout=600)
    assert process.returncode != 0
    assert printed.count("A batch of 9 rows cannot be shared equally by 2 processes.") == 1
    assert train_distributed.__file__ not in printed  # no traceback of ours
    assert not (tmp_path / "out").exists()


def test_restarts_that_could_hang_are_refused(activations, tmp_path):
    settings = split("--d-sae 64 --n-steps 2 --batch-size 8")
    shared = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "0"}
    process = torchrun(
        activations, tmp_path / "out", *settings, processes=1, restarts=1, variables=shared
    )
    printed, _ = process.communicate(timeout=600)
    assert process.returncode != 0 and not (tmp_path / "out").exists()
    assert printed.count("Restarts need TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1") == 1


# --- what the page says about memory ---------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_reading_does_not_fill_the_memory(tmp_path):
    """100 MB of activations are read once over; a view that stays open would hold them all."""

    def megabytes_of_files():
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(re.search(r"RssFile:\s+(\d+)", status)[1]) / 1024

    path = tmp_path / "activations.npy"
    np.save(path, np.ones((65_536, 400), np.float32))
    before = megabytes_of_files()
    kept_open, rng = np.load(path, mmap_mode="r"), np.random.default_rng(0)
    for _ in range(64):
        train_distributed.open_activations(path)[rng.integers(65_536, size=1_024)].sum()
    opened_anew = megabytes_of_files() - before
    for _ in range(64):
        kept_open[rng.integers(65_536, size=1_024)].sum()
    assert opened_anew < 10 and megabytes_of_files() - before > 80


# --- the page: beyond/scaling.md ---------------------------------------------------------------


@pytest.mark.slow
def test_every_command_of_the_page_runs(tmp_path, monkeypatch):
    """At a small size, in the page's order; the line for several machines runs twice, here."""
    page = (ROOT / "beyond" / "scaling.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(python|sh)\n(.*?)```", page, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "sh", "sh", "python", "sh", "sh"]
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    smaller = {
        "200_000": "2_000",
        "--n-steps 2000": "--n-steps 20",
        ".venv-beyond/bin/": f"{Path(sys.executable).parent}/",
        "first-machine:29500": f"localhost:{port}",
        "-m beyond.measure_scaling": "-m beyond.measure_scaling --small",
    }
    for large, small in smaller.items():
        assert large in page
        blocks = [(kind, code.replace(large, small)) for kind, code in blocks]

    monkeypatch.chdir(tmp_path)
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    names = {}
    for kind, code in blocks:
        if kind == "python":
            exec(code, names)
            continue
        machines = 2 if "--nnodes 2" in code else 1
        shells = [
            subprocess.Popen(["bash", "-ec", code], env=env, stdout=subprocess.DEVNULL)
            for _ in range(machines)
        ]
        assert [shell.wait(timeout=600) for shell in shells] == [0] * machines, code
    assert largest_difference(weights(tmp_path / "out2"), weights(tmp_path / "out3")) == 0

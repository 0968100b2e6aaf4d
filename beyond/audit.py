"""Is an SAE on this matrix worth anything? One command trains it, and what it has to beat.

    python -m beyond.audit activations.npy [--labels texts.txt] [--minutes 10] [--folder out/audit]

From Python: `audit(activations)`. Both write a folder: the page (page.html), the numbers
(audit.json), and the SAE for the raw activations (sae/), which `load_sae` and SAELens read.
"""

import argparse
import contextlib
import html
import io
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.cluster import MiniBatchKMeans
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from beyond.audit_page import page, verdict
from beyond.interop import export_to_saelens
from beyond.real_model.train import TopK as QuickTopK
from sae_lib import TopKSparseAutoencoder, load_sae, train_sae
from sae_lib.metrics import FIRES, agreement, cosine_similarity_matrix, fires, fvu, l0

FAR = 10  # a row so many times as far from the centre as the median row is dropped
SMALL = 64  # columns; more get half as many latents for each, and a loss that is quicker there
LEAST_STEPS, MOST_STEPS = 1_000, 3_000
TRAINING = 0.8  # of the minutes; the rest is for looking and measuring
# What is trained at each k, and on how many seeds. The first two decide; the rest is shown.
KINDS = {"data": 2, "look-alike": 2, "shuffled": 1, "frozen decoder": 1}
DECIDE, CONTROLS = list(KINDS)[:2], list(KINDS)[2:]
MARGIN = 0.1  # "better" is at least so much less unexplained, and so much more found again


@dataclass
class Audit:
    """What `audit` found.

    better: does the SAE beat the look-alike in what is left unexplained, and in what two seeds
    find again? verdict: that in words. k: the one at which it does best, whose SAE is kept.
    table: {k: {kind: what `measure` saw}}. looks: what was seen and dropped, a sentence each.
    settings: what was trained, and what was left out.
    sae: for raw activations; it was trained on (x - mean) / scale, mean (d_in,).
    latents: twenty of those that fire, drawn at random, with their top rows.
    """

    better: tuple[bool, bool]
    verdict: str
    k: int
    table: dict[int, dict[str, dict]]
    looks: list[str]
    settings: dict
    sae: TopKSparseAutoencoder
    mean: torch.Tensor
    scale: float
    latents: list[dict]

    @property
    def structure(self) -> bool:
        """Is there sparse structure beyond covariance? Both, at the same k, or it is not shown."""
        return all(self.better)

    def _repr_html_(self) -> str:
        frame = 'style="width: 100%; height: 900px; border: 0"'
        return f'<iframe srcdoc="{html.escape(page(self))}" {frame}></iframe>'


def audit(
    activations: torch.Tensor | np.ndarray,
    labels: Sequence[str] | None = None,
    *,
    ks: Sequence[int] | None = None,
    n_steps: int | None = None,
    minutes: float = 10,
    folder: str | Path = "out/audit",
    seed: int = 0,
) -> Audit:
    """Train TopK SAEs on activations (n_rows, d_in) and on controls, and write a page about them.

    The verdict is "structure beyond covariance" if at some k the SAE does better than on a
    Gaussian look-alike, noise with the data's mean and covariance: on rows held out, in what is
    left unexplained and in how much two seeds find again, by more than `better` asks for.
    labels: a word or a text for each row. ks: how many latents may fire; by default up to four
    powers of two, to d_in / 4 and to 64. n_steps: by default 1,000 to 3,000, and what doesn't fit
    into `minutes` is left out and named; if given, the time is not limited.
    Raises TypeError or ValueError if activations, labels or ks cannot be used.
    """
    started = time.perf_counter()
    raw = matrix(activations)
    d_in = raw.shape[1]
    if labels is not None and len(labels) != len(raw):
        raise ValueError(f"labels: expected {len(raw):,}, one for each row, got {len(labels):,}.")
    ks = sorted(ks or [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= max(2, d_in / 4)][-4:])
    if not 1 <= ks[0] <= ks[-1] <= d_in:
        raise ValueError(f"ks: expected 1 to {d_in}, the number of columns, got {ks}.")
    kept, looks = look(raw)
    train, held_out, mean, scale = prepare(raw[kept], seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() if d_in > SMALL else 1)  # small ones lose by sharing out
    try:
        d_sae = 4 * d_in if d_in <= SMALL else 2 * d_in
        seconds = float("inf") if n_steps else TRAINING * 60 * minutes
        steps = n_steps or plan(train, d_sae, ks, seconds)
        how = {"ks": ks, "d_sae": d_sae, "n_steps": steps, "controls": CONTROLS, "seed": seed}
        table, saes = compare(train, held_out, **how, seconds=seconds)
        n_centres = rivals(train, held_out, table, d_sae)
    finally:
        torch.set_num_threads(threads)
    k = best_k(table)
    export_to_saelens(saes[k], Path(folder, "sae"), mean=mean, scale=scale, overwrite=True)
    sae = load_sae(Path(folder, "sae"))
    left_out = [f"k = {k}" for k in ks if k not in table]
    left_out += [f'the control "{kind}"' for kind in CONTROLS if kind not in table[k]]
    if not n_steps and steps < LEAST_STEPS:
        left_out.append(f"batches {steps + 1:,} to {LEAST_STEPS:,}")
    took = round((time.perf_counter() - started) / 60, 1)
    settings = how | {
        "ks": list(table),
        "left out": left_out,
        "centres": n_centres,
        "minutes": took,
    }
    settings |= {"rows": len(train), "rows held out": len(held_out)}
    result = Audit(
        better=better(table[k]),
        verdict=verdict(table, k, *better(table[k]), steps),
        k=k,
        table=table,
        looks=looks,
        settings=settings,
        sae=sae,
        mean=mean,
        scale=scale,
        latents=top_rows(sae, scale, raw, kept, labels, seed),
    )
    numbers = vars(result) | {"sae": "sae/", "mean": mean.tolist()}
    Path(folder, "audit.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    Path(folder, "page.html").write_text(page(result), encoding="utf-8")
    return result


# --- looking first ------------------------------------------------------------------------


def matrix(activations: torch.Tensor | np.ndarray) -> torch.Tensor:
    """The activations as floats (n_rows, d_in); raise in one sentence if they are none."""
    if isinstance(activations, np.ndarray) and activations.dtype.kind in "fiu":
        activations = torch.from_numpy(np.ascontiguousarray(activations))
    if not isinstance(activations, torch.Tensor) or activations.is_complex():
        got = getattr(activations, "dtype", type(activations).__name__)
        raise TypeError(f"activations: expected a matrix of numbers, got {got}.")
    if activations.ndim != 2 or activations.shape[1] < 2:
        got = tuple(activations.shape)
        raise ValueError(f"activations: expected the shape (n_rows, d_in >= 2), got {got}.")
    return activations.detach().cpu().float()


def look(raw: torch.Tensor) -> tuple[torch.Tensor, list[str]]:
    """Which rows to keep, as indices, and what was seen, a sentence each."""
    looks = [f"The matrix has {len(raw):,} rows and {raw.shape[1]:,} columns."]
    kept = torch.arange(len(raw))

    def drop(is_bad: torch.Tensor, why: str) -> torch.Tensor:
        if n := int(is_bad.sum()):
            looks.append(f"{n:,} row{'s were' if n > 1 else ' was'} dropped: {why}.")
        return kept[~is_bad]

    kept = drop(~raw.isfinite().all(dim=1), "with NaN or infinity in it")
    first = {}
    is_copy = [
        first.setdefault(hash(row.tobytes()), i) != i for i, row in enumerate(raw[kept].numpy())
    ]
    kept = drop(torch.tensor(is_copy, dtype=torch.bool), "an exact copy of an earlier row")
    if len(kept):
        x = raw[kept]
        distance = (x - x.median(dim=0).values).norm(dim=1)
        is_far = distance > FAR * distance.median()
        kept = drop(is_far, f"more than {FAR} times as far from the centre as the median row")
    if len(kept) < 100:
        raise ValueError(f"activations: expected at least 100 different rows, got {len(kept)}.")
    x = raw[kept]
    if n := int((x == x[0]).all(dim=0).sum()):
        looks.append(f"{n:,} column{'s are' if n > 1 else ' is'} constant, and kept.")
    if len(kept) < 10 * raw.shape[1]:
        looks.append("With fewer than ten rows for each column the covariance itself is a guess.")
    return kept, looks


def prepare(x: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """(x - mean) / scale, of root mean square length 1: train, held_out (a fifth), mean, scale."""
    mean = x.mean(dim=0)
    scale = (x - mean).square().sum(dim=1).mean().sqrt().item()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    held_out, train = ((x - mean) / scale)[order].tensor_split([min(len(x) // 5, 10_000)])
    return train, held_out, mean, scale


def gaussian_look_alike(x: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """Noise with the mean and covariance of x: (n, d_in)."""
    variances, axes = torch.linalg.eigh(torch.cov(x.T.double()))
    noise = torch.randn(n, len(axes), generator=torch.Generator().manual_seed(seed))
    return noise.to(x) @ (axes * variances.clamp(min=0).sqrt()).T.to(x) + x.mean(dim=0)


def shuffled(x: torch.Tensor, seed: int) -> torch.Tensor:
    """Each column in an order of its own: what columns have in common is gone."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([c[torch.randperm(len(c), generator=generator)] for c in x.T], dim=1)


# --- training -----------------------------------------------------------------------------


def plan(train: torch.Tensor, d_sae: int, ks: Sequence[int], seconds: float) -> int:
    """The steps of each SAE: as many as all can have in so many seconds, but LEAST_STEPS at least.

    Where those are too many for the time `compare` leaves SAEs out. Fewer only if one k alone,
    with its four SAEs that decide, could not have them.
    """
    affordable = seconds / seconds_a_step(train, d_sae, max(ks))
    for_all = affordable / (len(ks) * sum(KINDS.values()))
    steps = min(max(for_all, LEAST_STEPS), MOST_STEPS, affordable / 4)
    return max(1, int(steps))


def seconds_a_step(train: torch.Tensor, d_sae: int, k: int, n: int = 20) -> float:
    """How long a step takes here, measured on n of them; on one thread or on all, if that is less.

    Beside other work threads wait for one another, and one can be several times as fast as two.
    PyTorch is left with the faster number.
    """
    seconds = {}
    for n_threads in {torch.get_num_threads(), 1}:
        torch.set_num_threads(n_threads)
        for n_steps in (2, n):  # the first wake the threads
            started = time.perf_counter()
            trained(train[:1_000], d_sae, k, n_steps, seed=0)
        seconds[n_threads] = (time.perf_counter() - started) / n
    torch.set_num_threads(min(seconds, key=seconds.get))
    return min(seconds.values())


def learning_rate(d_in: int) -> float:
    """For rows whose root mean square length is 1: W_dec's entries are about 1 / sqrt(d_in).

    With many columns lower still: with 768 of them 0.007 killed a third of the latents, 0.003 none.
    """
    return min(0.03, 0.2 / d_in**0.5, 2 / d_in)


def trained(
    x: torch.Tensor, d_sae: int, k: int, n_steps: int, seed: int, frozen: bool = False
) -> TopKSparseAutoencoder:
    """A new SAE after n_steps of `train_sae` on rows x (n, d_in), without its progress bar."""
    d_in = x.shape[1]
    sae = (QuickTopK if d_in > SMALL else TopKSparseAutoencoder)(d_in, d_sae, k=k, seed=seed)
    sae.W_dec.requires_grad_(not frozen)
    with contextlib.redirect_stdout(io.StringIO()):
        train_sae(sae, x, n_steps=n_steps, lr=learning_rate(d_in), seed=seed, n_logged=2)
    return sae


def compare(
    train: torch.Tensor,
    held_out: torch.Tensor,
    *,
    ks: Sequence[int],
    d_sae: int,
    n_steps: int,
    controls: Sequence[str] = (),
    seconds: float = float("inf"),
    seed: int = 0,
) -> tuple[dict[int, dict[str, dict]], dict[int, TopKSparseAutoencoder]]:
    """Train what decides at every k, then the controls: what was seen, and for each k an SAE.

    The largest k comes first: one too small finds sums of features. What would not be done in so
    many seconds, as long as SAEs took until then, is left out: the controls, then the smallest k's.
    """
    sizes = [len(train), len(held_out)]
    pools = {"data": (train, held_out), "frozen decoder": (train, held_out)}
    pools["look-alike"] = gaussian_look_alike(train, sum(sizes), seed).split(sizes)
    if "shuffled" in controls:
        pools["shuffled"] = shuffled(torch.cat([train, held_out]), seed).split(sizes)
    jobs = [[(k, kind) for kind in DECIDE] for k in sorted(ks, reverse=True)]
    jobs.append([*product(ks, controls)])
    n_saes = [sum(KINDS[kind] for _, kind in job) for job in jobs]
    table, of_data, started = {k: {} for k in sorted(ks)}, {}, time.perf_counter()
    bar = tqdm(total=sum(n_saes), unit=" SAEs", file=sys.stdout)
    for i, job in enumerate(jobs):
        spent, n_done = time.perf_counter() - started, sum(n_saes[:i])
        if n_done and spent / n_done * sum(n_saes[: i + 1]) > seconds:
            break
        for k, kind in job:
            bar.set_description(f"k = {k}, {kind}")
            seeds, frozen = range(seed, seed + KINDS[kind]), kind == "frozen decoder"
            saes = [trained(pools[kind][0], d_sae, k, n_steps, s, frozen) for s in seeds]
            table[k][kind] = measure(saes, pools[kind][1])
            of_data.setdefault(k, saes[0])
            bar.update(len(saes))
    bar.close()
    table = {k: row for k, row in table.items() if row}
    for row in table.values():
        found_again(row)
    return table, of_data


def rivals(train: torch.Tensor, held_out: torch.Tensor, table: dict, n_atoms: int) -> int:
    """Add to each k what PCA with k components and k-means leave. How many centres it had."""
    train = train[:20_000]
    how = {"batch_size": 4_096, "n_init": 1, "random_state": 0}
    if train.shape[1] > SMALL:
        how |= {"init": "random", "max_iter": 10}  # else this alone would take minutes
    k_means = MiniBatchKMeans(min(n_atoms, len(train)), **how)
    with threadpool_limits(torch.get_num_threads()):
        nearest = k_means.fit(train.numpy()).predict(held_out.numpy())
    centres = torch.from_numpy(k_means.cluster_centers_)
    mean, axes = train.mean(dim=0), torch.linalg.eigh(torch.cov(train.T)).eigenvectors.flip(1)
    for k, row in table.items():
        x_hat = mean + (held_out - mean) @ axes[:, :k] @ axes[:, :k].T
        row["PCA"] = {"unexplained": [fvu(held_out, x_hat)]}
        row["k-means"] = {"unexplained": [fvu(held_out, centres[nearest])]}
    return len(centres)


# --- judging ------------------------------------------------------------------------------


@torch.no_grad()
def measure(saes: Sequence[TopKSparseAutoencoder], held_out: torch.Tensor) -> dict:
    """Of one or two SAEs of one kind: lists with a number for each, then of both together.

    unexplained (FVU), l0, dead (share of latents that never fire), cosine (mean |cosine| of two
    live decoder rows). Of the latents that fire at least half as often as the average, k / d_sae:
    nearest, each one's best cosine in the other seed; agreement, the share at 0.99 or more.
    """
    seen, often = {"unexplained": [], "l0": [], "dead": [], "cosine": []}, []
    for sae in saes:
        x_hat, acts = sae(held_out)
        rate = fires(acts).float().mean(dim=0)
        live = sae.W_dec[rate > 0]
        n = len(live)
        total = cosine_similarity_matrix(live, live).abs().sum().item() if n else 0.0
        seen["unexplained"].append(fvu(held_out, x_hat))
        seen["l0"].append(l0(acts))
        seen["dead"].append(1 - n / len(rate))
        seen["cosine"].append((total - n) / max(1, n * (n - 1)))
        often.append(sae.W_dec[rate >= 0.5 * sae.k / len(rate)])
    if len(saes) == 2:
        both = all(map(len, often))
        cosines = cosine_similarity_matrix(*often) if both else torch.zeros(1, 1)
        seen["nearest"] = torch.cat([cosines.amax(dim=0), cosines.amax(dim=1)]).tolist()
        seen["agreement"] = agreement(*often)
    return seen


def found_again(row: dict) -> None:
    """Turn `nearest` into `again`: the share of directions that the other seed has too.

    A direction counts from a cosine on that only 1 in 100 directions reach on the look-alike
    (0.99 at most), where seeds agree by chance, and on what the covariance alone prefers.
    """
    at = min(0.99, np.quantile(row["look-alike"]["nearest"], 0.99).item())
    for kind in ("data", "look-alike"):
        nearest = np.array(row[kind].pop("nearest"))
        row[kind] |= {"again": (nearest >= at).mean().item(), "again at": at}


def better(row: dict) -> tuple[bool, bool]:
    """Does the SAE beat the look-alike: in what is left unexplained, and in what is found again?

    Unexplained: the worse seed on the data leaves less than the better one on the look-alike, by
    more than two seeds of either differ and by a tenth. Found again: by a tenth of the directions.
    """
    data, noise = row["data"], row["look-alike"]
    gap = min(noise["unexplained"]) - max(data["unexplained"])
    spread = max(np.ptp(data["unexplained"]), np.ptp(noise["unexplained"]))
    less_left = gap > max(spread, MARGIN * min(noise["unexplained"]))
    return bool(less_left), data["again"] - noise["again"] > MARGIN


def best_k(table: dict[int, dict[str, dict]]) -> int:
    """Where the SAE does better in most; then, where most is found again and least is left."""

    def merit(k: int) -> tuple[int, float]:
        data, noise = table[k]["data"], table[k]["look-alike"]
        gained = 1 - np.mean(data["unexplained"]) / np.mean(noise["unexplained"])
        return sum(better(table[k])), data["again"] * gained

    return max(table, key=merit)


@torch.no_grad()
def top_rows(
    sae: TopKSparseAutoencoder,
    scale: float,
    raw: torch.Tensor,
    kept: torch.Tensor,
    labels: Sequence[str] | None,
    seed: int,
) -> list[dict]:
    """Twenty latents drawn at random from all that fire, and the eight rows they fire on most."""
    chunks = raw[kept].split(4_096)
    rate = sum((sae.encode(x) > FIRES * scale).sum(dim=0) for x in chunks) / len(kept)
    live = rate.nonzero()[:, 0]
    rng = torch.Generator().manual_seed(seed)
    drawn = live[torch.randperm(len(live), generator=rng)[:20]]
    strongest, rows = torch.cat([sae.encode(x)[:, drawn] for x in chunks]).topk(8, dim=0)
    latents = []
    for latent, acts, top in zip(drawn.tolist(), strongest.T, kept[rows].T.tolist(), strict=True):
        top = top[: int((acts > 0).sum())]
        words = top if labels is None else [str(labels[row]) for row in top]
        latents.append({"latent": latent, "fires": rate[latent].item(), "rows": top, "top": words})
    return latents


# --- the command --------------------------------------------------------------------------


def read(path: Path) -> np.ndarray | torch.Tensor:
    """The one matrix in a .npy, .pt or .safetensors file; no code in it is run."""
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix not in (".pt", ".safetensors"):
        raise ValueError(f"expected a .npy, .pt or .safetensors file, got {path.name}.")
    content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu")
    if isinstance(content, dict):
        if len(content) != 1:
            raise ValueError(f"expected one tensor in {path.name}, got {', '.join(content)}.")
        (content,) = content.values()
    return content


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m beyond.audit", description=__doc__.splitlines()[0]
    )
    parser.add_argument("activations", type=Path, help=".npy, .pt, .safetensors: a row a sample")
    parser.add_argument("--labels", type=Path, help="a text file with a line for each row")
    parser.add_argument("--ks", type=int, nargs="+", help="how many latents may fire on a row")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--folder", type=Path, default=Path("out/audit"))
    given = vars(parser.parse_args())
    try:
        if given["labels"]:
            given["labels"] = given["labels"].read_text("utf-8").rstrip("\n").split("\n")
        result = audit(read(given.pop("activations")), **given)
    except (OSError, TypeError, ValueError) as error:
        sys.exit(f"audit: {error}")
    print(*result.looks, "", result.verdict, "", given["folder"] / "page.html", sep="\n")


if __name__ == "__main__":
    main()

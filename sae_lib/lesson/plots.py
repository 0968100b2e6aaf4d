"""Figures. They take arrays, draw on `ax` (or a new figure) and return it; none trains.

Titles are sentences computed from what is drawn; cosines in them are rounded down, never up.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sae_lib.metrics import fires, match_features

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#6b6b6b"
PALE = "#9ecae1"
# Blue for -1, white for 0, red for 1. The usual maps end in a blue and a red of the same
# lightness, which are one grey on a poor projector or in print; here the red is far darker.
DIVERGING = LinearSegmentedColormap.from_list("signed", ["#4a90c4", "white", "#8e0a1e"])
STYLE = {
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 2.2,
    "legend.fontsize": 12,
    "legend.facecolor": "white",
    "legend.edgecolor": "none",
    "legend.framealpha": 1,
    "legend.borderpad": 0.1,
}
DASHED = {"color": "black", "linestyle": "--", "linewidth": 1.2}
AT_BATCH = {"xycoords": ("data", "axes fraction")}  # a place: a batch, and a height from 0 to 1
# a decorator: draw in this style alone, so that nothing disappears where a dark one is set
styled = plt.style.context(["default", STYLE])


def down(value: float, digits: int = 2) -> str:
    """So many decimals, towards zero: what misses 0.99 is not written as 0.99."""
    cut = np.trunc(10**digits * value + 1e-9 * np.sign(value)) / 10**digits
    return f"{cut:.{digits}f}".replace("-", "−")


def _lasting(holds: np.ndarray, steps: np.ndarray) -> int | None:
    """The batch from which on it always holds, counted from 1, or None."""
    first = max(np.flatnonzero(~holds), default=-1) + 1
    return steps[first] + 1 if first < len(holds) else None


def _headline(fig: Figure, text: str) -> Figure:
    """A title across all panels, from the left edge."""
    fig.suptitle(text, x=0.01, ha="left")
    return fig


def _over_batches(ax: Axes, steps, curve, look: str = "-", **more) -> None:
    """A curve over the training batches, on a logarithmic axis, the first batch at 1."""
    ax.plot(np.asarray(steps) + 1, curve, look, **more)
    ax.set(xscale="log", xlabel="training batch (log)")
    ax.xaxis.set_major_formatter("{x:,.0f}")


@styled
def plot_matrix(matrix, ax=None, *, yticks=None, marked=(), numbers=2.0, one=0.99) -> Axes:
    """A signed matrix as a heatmap from -1 (blue) over 0 (white) to 1 (dark red).

    marked: (row, column) cells to frame. numbers: write the value in cells at least this far
    from 0 (so, by default, in none); from `one` on it is written as 1.
    """
    matrix = np.asarray(matrix)
    rows, columns = matrix.shape
    ax = ax or plt.subplots(figsize=(6, 1.2 + 0.27 * rows))[1]
    ax.imshow(matrix, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto")
    ax.set_xticks(range(columns))
    ax.set_yticks(range(rows), yticks)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(True)  # a row of zeros is white
    for row, column in marked:
        box = (column - 0.5, row - 0.5)
        ax.add_patch(Rectangle(box, 1, 1, fill=False, edgecolor="black", linewidth=2))
    for (row, column), value in np.ndenumerate(matrix):
        if abs(value) >= numbers:
            text = down(value if abs(value) < one else np.sign(value))
            text = text.replace("0.", ".").removesuffix(".00")
            colour = "white" if value > 0.7 else "black"
            ax.text(column, row, text, ha="center", va="center", color=colour)
    return ax


@styled
def plot_sorted(cosines, latent_acts=None, ax=None, *, title="", one=0.99, numbers=0.99) -> Axes:
    """Cosines (d_sae, n_features) as a heatmap, each feature's own latent first.

    Below them the others: redundant, then dead, if latent_acts (n, d_sae) tell which is which.
    A frame for each found feature, at a cosine of `one` or more; the title counts them.
    """
    found = match_features(cosines)
    cosines, own = np.asarray(cosines), found.latent[found.latent >= 0]
    rest = np.setdiff1d(range(len(cosines)), own)
    groups = {"": own, " ": rest}
    if latent_acts is not None:
        dead = ~np.asarray(fires(latent_acts)).any(axis=0)[rest]
        groups = {"matched": own, "redundant": rest[~dead], "dead": rest[dead]}
    order = np.concatenate(list(groups.values())).astype(int)
    frames = enumerate(np.flatnonzero(found.latent >= 0))
    frames = [(row, j) for row, j in frames if found.cosine[j] >= one]
    ax = plot_matrix(cosines[order], ax, yticks=order, numbers=numbers, one=one, marked=frames)
    end = -0.5
    for name, members in groups.items():
        if len(members):
            start, end = end, end + len(members)
            ax.axhline(end, color="black", linewidth=1.5)
            place = {"xycoords": ("axes fraction", "data"), "rotation": 90, "va": "center"}
            ax.annotate(name, (1.02, (start + end) / 2), **place)
    title = f"{title}: " * bool(title) + f"{len(frames)} of {cosines.shape[1]} found"
    ax.set(title=title, xlabel="feature", ylabel="latent")
    return ax


@styled
def plot_gram(W) -> Figure:
    """WᵀW of the base model's W (n_hidden, n_features), and each direction's length beside it."""
    gram = np.asarray(W).T @ np.asarray(W)
    lengths, n = np.sqrt(gram.diagonal()), len(gram)
    size = (6, 1.2 + 0.3 * n)
    fig, (left, right) = plt.subplots(1, 2, figsize=size, width_ratios=(4, 1), sharey=True)
    plot_matrix(gram, left, numbers=0.15).set(xlabel="feature", ylabel="feature")
    right.barh(range(n), lengths, color=BLUE)
    right.axvline(1, **DASHED)
    right.set(xlabel="length", xticks=(0, 1))
    right.tick_params(axis="y", length=0)
    paired = ((gram < -0.9).sum(axis=1) == 1).sum()
    lengths = f"lengths {lengths.min():.2f} to {lengths.max():.2f}"
    return _headline(fig, f"{paired} of {n} have one opposite; {lengths}")


@styled
def plot_chance(chance, cosines) -> Axes:
    """Worst and mean matched cosine of random dictionaries (histograms), and of the SAE (line).

    chance (n_draws, n_features); cosines (n_features,), nan for a feature without a latent.
    """
    ax = plt.subplots(figsize=(6, 3.6))[1]
    worst_of_chance, worst = np.nanmin(chance, axis=1), np.nanmin(cosines)
    mean_of_chance = np.nanmean(chance, axis=1)
    look = {"bins": np.linspace(0, 1, 51), "edgecolor": "white"}
    ax.hist(mean_of_chance, color=PALE, hatch="//", label="random: the mean of each", **look)
    ax.hist(worst_of_chance, color=GREY, label="random: the worst of each", **look)
    ax.axvline(worst, color=ORANGE, linewidth=3, label="the SAE: the worst")
    ax.set(xlim=(0, 1.02), xlabel="matched cosine", ylabel="dictionaries")
    ax.legend(loc="upper left")
    alone = np.isnan(cosines).sum()
    this = f"{alone} features have no latent" if alone else f"this SAE's worst is {down(worst, 3)}"
    limit = np.ceil(100 * worst_of_chance.max() - 1e-9) / 100  # up, as it bounds from above
    ax.set_title(f"No random dictionary gets its worst feature\npast {limit:.2f}; {this}")
    return ax


@styled
def plot_training(
    history, found, n_features: int, *, variance: float, oracle_loss: float, true_l0: float,
    final_l0: float,
) -> tuple[Figure, Figure, Figure]:  # fmt: skip
    """Loss, L0 and recovery over the training batches: three figures with one x axis.

    found (n_logged,): recovered features. variance: of the activations, summed over d_in; an
    error below a hundredth of it counts as gone. oracle_loss, true_l0: what the true dictionary
    has. final_l0: over all activations, as the last batch alone is noisy.
    """
    curves = history.reconstruction, history.sparsity, history.l0, found, history.step
    error, price, l0, found, step = map(np.array, curves)
    gone = _lasting(error < 0.01 * variance, step)
    complete = _lasting(found >= n_features, step)
    loss, sparsity, recovery = panels = [_panel(height) for height in (3.2, 2.7, 2.5)]
    _over_batches(loss, step, error + price, color="black", label="total")
    _over_batches(loss, step, error, "--", color=BLUE, label="squared error")
    _over_batches(loss, step, price, "-.", color=ORANGE, label="λ · L1")
    loss.axhline(oracle_loss, color=GREY, linestyle=":", label="oracle's total")
    loss.set(yscale="log", ylabel="loss (log)", ylim=(None, 10 * max(1e-9, *(error + price))))
    loss.set_title(f"The error is gone by batch {gone:,}" if gone else "The error does not go away")
    _over_batches(sparsity, step, l0, color=PURPLE, label="latents that fire")
    sparsity.axhline(true_l0, color=GREY, linestyle=":", label="features really on")
    sparsity.set(ylabel="L0", ylim=(0, 1.4 * max(l0.max(), true_l0, 1)))
    sparsity.set_title(f"L0: at most {l0.max():.1f}, at the end {final_l0:.1f}")
    _over_batches(recovery, step, found, color=GREEN, drawstyle="steps-post")
    title = f"All {n_features} from batch {complete:,} on" if complete else ""
    title = title or f"{found[-1]} of {n_features} at the end"
    recovery.set(ylim=(-0.3, n_features + 0.6), ylabel=f"found of {n_features}", title=title)
    for ax, height in zip(panels, (0.03, 0.22, 0.12), strict=True):
        ax.set_xlim(0.9, 1.1 * step[-1] + 1.1)
        for name, batch in {"error gone": gone, "all found": complete}.items():
            if batch:
                ax.axvline(batch, **DASHED)
                ax.annotate(name, (1.05 * batch, height), rotation=90, **AT_BATCH)
        if ax is not recovery:
            ax.legend(loc="upper right", ncols=2)
    return tuple(ax.figure for ax in panels)


def _panel(height: float) -> Axes:
    """A figure whose margins are the same at any height, so that the axes of several line up."""
    fig, ax = plt.subplots(figsize=(6, height), layout="none")
    fig.subplots_adjust(0.14, 0.6 / height, 0.97, 1 - 0.3 / height)
    return ax


@styled
def plot_switch(phases: Sequence[tuple], n_features: int) -> Figure:
    """Error, L0 and found features of one SAE that is trained on under changing prices.

    phases: (name, history, found (n_logged,)) in the order of training; a line and the name
    where each begins.
    """
    fig, axes = plt.subplots(3, 1, figsize=(6, 5.6), sharex=True)
    start = 0
    for name, history, found in phases:
        batch = start + np.asarray(history.step) + 1
        axes[0].plot(batch, history.reconstruction, color=BLUE)
        axes[1].plot(batch, history.l0, color=PURPLE)
        axes[2].plot(batch, found, color=GREEN, drawstyle="steps-post")
        for ax in axes:
            if start:
                ax.axvline(start, **DASHED)
        axes[1].annotate(f" {name}", (start, 1.02), va="top", weight="bold", **AT_BATCH)
        start = batch[-1]
    axes[0].set(ylabel="squared error", yscale="log")
    axes[1].set(ylabel="L0", ylim=(0, 1.25 * axes[1].get_ylim()[1]))
    axes[2].set(ylabel=f"found of {n_features}", ylim=(-0.3, n_features + 0.6))
    axes[2].set(xlabel="training batch", xlim=(0, start))
    axes[2].xaxis.set_major_formatter("{x:,.0f}")
    ends = (f"{name.capitalize()}: {found[-1]} of {n_features} found" for name, _, found in phases)
    return _headline(fig, ". ".join(ends))


@styled
def plot_directions(truth, learned: Mapping[str, np.ndarray]) -> Figure:
    """The four worst matches, a panel each: one coordinate a column, a mark for each set.

    truth (n, d), learned: one or two sets (n, d), row j for feature j; worst by the first.
    Coordinates have no order, so no line joins them.
    """
    looks = (("o", BLUE), ("x", ORANGE), ("_", GREY))
    sets = {name: np.asarray(rows, float) for name, rows in {"true": truth, **learned}.items()}
    sets = {name: rows / np.linalg.norm(rows, axis=1)[:, None] for name, rows in sets.items()}
    cosines = {name: (sets[name] * sets["true"]).sum(axis=1) for name in learned}
    first = next(iter(cosines.values()))
    fig, axes = plt.subplots(2, 2, figsize=(6, 5), sharex=True, sharey=True)
    for ax, j in zip(axes.flat, first.argsort()[:4], strict=False):
        ax.axhline(0, color=GREY, linewidth=0.8)
        for (name, rows), (mark, colour) in zip(sets.items(), looks, strict=False):
            ax.plot(rows[j], mark, color=colour, label=name, fillstyle="none", ms=11, mew=2)
        scores = ", ".join(f"{name} {down(cosines[name][j], 3)}" for name in learned)
        ax.set_title(f"feature {j}\n{scores}", fontweight="normal")
        ax.set(ylim=(-1.2, 1.2), xticks=range(rows.shape[1]))
    for ax in axes.flat[len(first) :]:
        ax.remove()
    fig.supxlabel("hidden coordinate", fontsize=12)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper right", ncols=3)
    return _headline(fig, f"Worst cosine: {down(np.nanmin(first), 3)}")


@styled
def plot_firing(strengths, latent_acts, partner_on) -> Axes:
    """A feature's strength against its latent's activation, a dot an input: all (n,).

    partner_on: bool, the inputs that hold the opposite feature too, drawn in another mark.
    """
    ax = plt.subplots(figsize=(6, 4))[1]
    ax.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1.2)
    strengths, latent_acts = np.asarray(strengths), np.asarray(latent_acts)
    with_partner = np.asarray(partner_on)
    for shown, mark, colour, label in (
        (~with_partner, ".", BLUE, "opposite feature off"),
        (with_partner, "x", ORANGE, "opposite feature on too"),
    ):
        ax.plot(strengths[shown], latent_acts[shown], mark, color=colour, alpha=0.6, label=label)
    ax.set(xlabel="strength of the feature (0 = off)", ylabel="activation of its latents")
    if with_partner.any():
        ax.legend(loc="upper left")
    on, fired = fires(strengths), fires(latent_acts)
    ax.set_title(
        f"On in {on.sum():,} of {len(on):,} inputs: latents fire in {(on & fired).sum():,}.\n"
        f"Off in {(~on).sum():,}: they fire in {(~on & fired).sum():,}."
    )
    return ax


@styled
def plot_recovery(steps, counts, n_features: int, other: Mapping[str, tuple]) -> Axes:
    """Recovered features over the training batches, a thin line a seed: counts (n, n_logged).

    other: {name: (steps, counts (n_logged,))}, runs to compare with, dashed.
    """
    ax, counts = plt.subplots(figsize=(6, 3.4))[1], np.asarray(counts)
    mean = {"linewidth": 3, "label": f"mean of {len(counts)}"}
    _over_batches(ax, steps, counts.T, color=BLUE, alpha=0.15, linewidth=1)
    _over_batches(ax, steps, counts.mean(axis=0), color=BLUE, **mean)
    for name, (its_steps, its_counts) in other.items():
        _over_batches(ax, its_steps, its_counts, "--", color=ORANGE, label=name)
    ax.set(ylim=(-0.3, n_features + 0.6), ylabel=f"found of {n_features}")
    complete = (counts[:, -1] == n_features).sum()
    ax.set_title(f"{complete} of {len(counts)} SAEs end with all {n_features}")
    ax.legend(loc="upper left")
    return ax


@styled
def plot_bars(values: Mapping[str, Sequence[float]], total: int) -> Figure:
    """Recovered features for each condition: a bar for the mean, a dot for every seed."""
    fig, ax = plt.subplots(figsize=(6, 1.1 + 0.46 * len(values)))
    for row, counts in enumerate(values.values()):
        ax.barh(row, np.mean(counts), color=PALE, height=0.7)
        apart = np.linspace(-0.22, 0.22, len(counts)) if len(counts) > 1 else 0  # none hidden
        ax.plot(
            counts, row + apart * np.ones(len(counts)), "o", color=BLUE, markersize=5, clip_on=False
        )
        mean = f"{np.mean(counts):.1f}".removesuffix(".0")
        ax.text(total * 1.04, row, mean, va="center_baseline")
    ax.set_yticks(range(len(values)), list(values))
    ax.set(xlim=(0, total * 1.14), xlabel=f"features found (of {total})")
    ax.invert_yaxis()
    complete = sum(min(counts) >= total for counts in values.values())
    each = ", on every seed" if max(map(len, values.values())) > 1 else ""
    return _headline(fig, f"{complete} of {len(values)} find all {total}{each}")

"""Figures. They take arrays, draw on `ax` (or a new figure) and return it; none trains."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#767676"
DIVERGING = "RdBu_r"  # colour-blind safe, white at zero
STYLE = {
    "figure.facecolor": "white",  # so that nothing disappears in a dark theme
    "axes.facecolor": "white",
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 2.2,
    "legend.frameon": False,
}


def plot_matrix(
    matrix,
    ax: Axes | None = None,
    *,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    yticks: Sequence | None = None,
    marked: Sequence[tuple[int, int]] = (),
    numbers: float = 2.0,
    colorbar: str = "",
) -> Axes:
    """A signed matrix as a heatmap from -1 (blue) over 0 (white) to 1 (red).

    marked: (row, column) cells to frame. numbers: write the value in cells at least this far
    from 0 (so, by default, in none).
    """
    matrix = np.asarray(matrix)
    rows, columns = matrix.shape
    if ax is None:
        size = (1.8 + 0.42 * columns, 1.3 + 0.29 * rows)
        ax = plt.subplots(figsize=size)[1]
    image = ax.imshow(matrix, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto")
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel, xticks=range(columns))
    ax.set_yticks(range(rows), range(rows) if yticks is None else yticks, fontsize=10)
    ax.tick_params(length=0)
    for row, column in marked:
        box = (column - 0.5, row - 0.5)
        ax.add_patch(Rectangle(box, 1, 1, fill=False, edgecolor="black", linewidth=2))
    for (row, column), value in np.ndenumerate(matrix):
        if abs(value) >= numbers:
            colour = "white" if abs(value) > 0.6 else "black"
            text = f"{value:+.1f}".replace("+1.0", "1").replace("-1.0", "−1")
            ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=10)
    if colorbar:
        ax.figure.colorbar(image, ax=ax, label=colorbar, ticks=[-1, -0.5, 0, 0.5, 1])
    return ax


def mark_groups(ax: Axes, groups: dict[str, Sequence[int]]) -> Axes:
    """Label the rows of a heatmap that is sorted into matched, redundant and dead latents."""
    top = -0.5
    for name, members in groups.items():
        if len(members):
            bottom = top + len(members)
            ax.axhline(bottom, color="black", linewidth=1.5)
            ax.annotate(
                name,
                (1.02, (top + bottom) / 2),
                xycoords=("axes fraction", "data"),
                rotation=90,
                ha="left",
                va="center",
            )
            top = bottom
    return ax


def plot_chance(chance, cosines, ax: Axes | None = None) -> Axes:
    """Matched cosines of random dictionaries (a histogram) and of the SAE (lines)."""
    ax = ax or plt.subplots(figsize=(8, 3.4))[1]
    ax.hist(np.ravel(chance), bins=np.linspace(0.1, 1.0, 46), color=GREY)
    for i, cosine in enumerate(cosines):
        label = "the SAE's features" if i == 0 else None
        ax.axvline(cosine, color=ORANGE, linewidth=2, label=label)
    ax.axvline(np.mean(chance), color="black", linestyle=":", label="mean of chance")
    ax.set(xlabel="cosine with the matched direction", ylabel="random directions", yticks=[])
    ax.set_title("Chance reaches high cosines, but never ten times 0.99")
    ax.legend(loc="upper left")
    return ax


def plot_norms(norms, ax: Axes | None = None) -> Axes:
    """The length of each feature's direction, beside the 1 that a real one has."""
    ax = ax or plt.subplots(figsize=(4, 3.5))[1]
    ax.bar(range(len(norms)), np.asarray(norms), color=BLUE)
    ax.axhline(1, color="black", linestyle="--", linewidth=1.2)
    ax.set(xlabel="feature", ylabel="length of its direction", xticks=range(len(norms)))
    return ax


def plot_training(
    history,
    n_recovered: Sequence[int],
    n_features: int,
    *,
    true_l0: float,
    oracle_loss: float,
) -> Figure:
    """Loss, L0 and recovery on one step axis (logarithmic; step 0 is drawn at 1)."""
    fig, (top, middle, bottom) = plt.subplots(3, 1, figsize=(8, 8.4), sharex=True)
    step = np.maximum(np.asarray(history.step), 1)
    top.plot(step, np.asarray(history.reconstruction), color=BLUE, label="reconstruction error")
    top.plot(step, np.asarray(history.l1), color=ORANGE, linestyle="--", label="λ · L1")
    top.axhline(oracle_loss, color="black", linewidth=1.2, linestyle=":")
    top.text(1, oracle_loss * 0.2, "total loss of the true dictionary", fontsize=11, va="top")
    top.set(yscale="log", ylabel="loss (log scale)", title="The error is gone early …")
    top.legend(loc="upper right")
    middle.plot(step, np.asarray(history.l0), color=PURPLE)
    middle.axhline(true_l0, color="black", linewidth=1.2, linestyle=":")
    middle.text(1, true_l0 + 0.15, "features really on per input", fontsize=11)
    middle.set(ylabel="L0", ylim=(0, None), title="… the code gets sparser for much longer …")
    bottom.plot(step, n_recovered, color=GREEN, drawstyle="steps-post")
    bottom.set(
        xscale="log",
        ylim=(-0.3, n_features + 0.6),
        xlabel="training step (log scale)",
        ylabel=f"recovered of {n_features}",
        title="… and only then are the features found",
    )
    return fig


def plot_directions(feature_directions, latent_directions, names: Sequence[str]) -> Figure:
    """Each feature's direction beside its latent's, one coordinate a column.

    Both (n, d). Coordinates have no order, so no line joins them.
    """
    truth, found = np.asarray(feature_directions), np.asarray(latent_directions)
    columns = 5
    rows = -(-len(truth) // columns)
    fig, axes = plt.subplots(
        rows, columns, figsize=(8, 0.5 + 2.1 * rows), sharex=True, sharey=True, squeeze=False
    )
    for ax in axes.flat[len(truth) :]:
        ax.remove()
    x = np.arange(truth.shape[1])
    for ax, t, f, name in zip(axes.flat, truth, found, names, strict=False):
        ax.axhline(0, color=GREY, linewidth=0.8)
        ax.plot(
            x, t, "o", markersize=11, markerfacecolor="none", markeredgecolor=BLUE, label="true"
        )
        ax.plot(x, f, "x", markersize=7, markeredgewidth=2, color=ORANGE, label="learned")
        ax.set_title(name, fontsize=10, fontweight="normal")
        ax.set(xticks=x, ylim=(-1.15, 1.15))
    fig.supxlabel("hidden coordinate", fontsize=12)
    fig.supylabel("value", fontsize=12)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper right", ncols=2)
    return fig


def plot_firing(features, feature_acts, ax: Axes | None = None, *, title: str = "") -> Axes:
    """One feature's value against its latent's activation, a dot an input: both (n,)."""
    ax = ax or plt.subplots(figsize=(6, 4.5))[1]
    ax.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1.2)
    ax.plot(
        np.asarray(features), np.asarray(feature_acts), ".", color=BLUE, alpha=0.35, markersize=5
    )
    ax.set(xlabel="feature value (0 = off)", ylabel="latent's activation", title=title)
    return ax


def plot_seeds(cosines, threshold: float, ax: Axes | None = None) -> Axes:
    """Every feature of every seed: cosines (n_seeds, n_features), one column of dots a seed."""
    ax = ax or plt.subplots(figsize=(8, 3.2))[1]
    cosines = np.asarray(cosines)
    ax.plot(np.arange(len(cosines)), cosines, ".", color=BLUE, alpha=0.6)
    ax.axhline(threshold, color=ORANGE, linestyle="--", linewidth=1.5)
    low = min(cosines.min(), 2 * threshold - 1)
    ax.set(
        xlabel="seed", ylabel="matched cosine", ylim=(low - 0.1 * (1 - low), 1 + 0.1 * (1 - low))
    )
    return ax


def plot_bars(values: dict[str, Sequence[float]], total: int, ax: Axes | None = None) -> Axes:
    """Recovered features for each condition: a bar for the mean, a dot for every seed."""
    ax = ax or plt.subplots(figsize=(8, 0.9 + 0.42 * len(values)))[1]
    for row, counts in enumerate(values.values()):
        mean = np.mean(counts)
        ax.barh(row, mean, color="#9ecae1", height=0.6)
        ax.plot(counts, np.full(len(counts), row), "o", color=BLUE, markersize=5, alpha=0.6)
        ax.text(total * 1.03, row, f"{mean:.1f}", va="center")
    ax.set_yticks(range(len(values)), list(values))
    ax.set(xlim=(0, total * 1.12), xlabel=f"features recovered (of {total})")
    ax.invert_yaxis()
    return ax


MARKERS = (("o", "-", BLUE), ("s", "--", ORANGE), ("^", "-.", GREEN), ("D", ":", PURPLE))


def plot_lines(x, series: dict[str, Sequence[float]], ax: Axes, **labels: str) -> Axes:
    """Up to four curves over one log axis, told apart by marker, dash and colour alike."""
    place = np.arange(len(x))  # evenly spaced, so that a zero has a place on the axis
    for (name, y), (marker, dash, colour) in zip(series.items(), MARKERS, strict=False):
        ax.plot(place, np.asarray(y), marker=marker, linestyle=dash, color=colour, label=name)
    ax.set_xticks(place, [str(value).removesuffix(".0") for value in x], fontsize=10)
    ax.set(**labels)
    if len(series) > 1:
        ax.legend(fontsize=11)
    return ax


def plot_map(values, xticks: Sequence, yticks: Sequence, ax: Axes | None = None) -> Axes:
    """Shares from 0 to 1 as a grid of numbers, darker for more."""
    values = np.asarray(values)
    ax = ax or plt.subplots(figsize=(8, 1.3 + 0.55 * len(values)))[1]
    ax.imshow(values, cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        weight = "bold" if value == 1 else "normal"
        ax.text(column, row, f"{value:.0%}", ha="center", va="center", fontweight=weight)
    ax.set_xticks(range(len(xticks)), [str(x).removesuffix(".0") for x in xticks])
    ax.set_yticks(range(len(yticks)), yticks)
    ax.tick_params(length=0)
    return ax


def plot_broken_runs(runs: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Error, L0 and decoder norm of faulty runs, a column each; the healthy one dotted.

    runs: name -> {"step", "error", "l0", "norm"}, each (n_logged,); one is named "healthy".
    """
    healthy = runs["healthy"]
    faulty = {name: run for name, run in runs.items() if name != "healthy"}
    fig, axes = plt.subplots(
        3, len(faulty), figsize=(8, 6), sharex=True, sharey="row", squeeze=False
    )
    for column, (name, run) in zip(axes.T, faulty.items(), strict=True):
        column[0].set_title(f"Run {name}")
        for ax, curve in zip(column, ("error", "l0", "norm"), strict=True):
            for shown, dash, colour in ((healthy, ":", GREY), (run, "-", BLUE)):
                ax.plot(shown["step"] + 1, shown[curve], dash, color=colour)
            ax.plot(run["step"][-1] + 1, run[curve][-1], "o", color=BLUE, markersize=5)
        column[-1].set(xscale="log")
    axes[0, 0].set(ylabel="error (log)", yscale="log")
    axes[1, 0].set(ylabel="L0 (log)", yscale="log")
    axes[2, 0].set(ylabel="decoder norm", ylim=(0, None))
    for ax, ticks in ((axes[1, 0], (1, 3, 10)), (axes[2, 0], (0, 1, 2, 3))):
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
    fig.supxlabel("training step (log scale); dotted: a healthy run", fontsize=12)
    return fig

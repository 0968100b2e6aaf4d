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


def _cell_text(value: float, one: float) -> str:
    """A cosine in at most four signs; 1 from `one` up, so that a 1 is what counts as found."""
    if abs(value) >= one:
        return "1" if value > 0 else "−1"
    return f"{value:.2f}".replace("0.", ".").replace("-", "−")


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
    one: float = 0.99,
    colorbar: str = "",
) -> Axes:
    """A signed matrix as a heatmap from -1 (blue) over 0 (white) to 1 (red).

    marked: (row, column) cells to frame. numbers: write the value in cells at least this far
    from 0 (so, by default, in none); from `one` on it is written as 1.
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
            text = _cell_text(value, one)
            ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
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
    """Worst and mean matched cosine of random dictionaries (histograms), and of the SAE (lines).

    chance (n_draws, n_features); cosines (n_features,).
    """
    ax = ax or plt.subplots(figsize=(8, 3.4))[1]
    bins = np.linspace(0, 1, 51)
    for values, colour, hatch, name in (
        (np.nanmin(chance, axis=1), GREY, "", "random: the worst of a dictionary"),
        (np.nanmean(chance, axis=1), "#9ecae1", "//", "random: its mean"),
    ):
        ax.hist(values, bins=bins, color=colour, hatch=hatch, edgecolor="white", label=name)
    ax.axvline(np.nanmin(cosines), color=ORANGE, linewidth=3, label="the SAE: the worst")
    ax.set(xlim=(0, 1.02), xlabel="matched cosine", ylabel="dictionaries")
    ax.legend(loc="upper left", fontsize=11)
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
    """Loss, L0 and recovery on one axis of training batches (logarithmic, the first at 1).

    Three axes without titles, top to bottom: what they show is for the caller to say.
    """
    fig, (top, middle, bottom) = plt.subplots(3, 1, figsize=(8, 8.4), sharex=True)
    batch = np.asarray(history.step) + 1
    error, price = np.asarray(history.reconstruction), np.asarray(history.sparsity)
    top.plot(batch, error + price, color="black", label="total loss")
    top.plot(batch, error, color=BLUE, linestyle="--", label="reconstruction error")
    top.plot(batch, price, color=ORANGE, linestyle="-.", label="λ · L1")
    top.axhline(oracle_loss, color=GREY, linestyle=":", label="total loss of the true dictionary")
    top.set(yscale="log", ylabel="loss (log scale)")
    top.legend(loc="upper right", fontsize=11)
    middle.plot(batch, np.asarray(history.l0), color=PURPLE, label="latents that fire")
    middle.axhline(true_l0, color=GREY, linestyle=":", label="features really on")
    middle.set(ylabel="per input (L0)", ylim=(0, None))
    middle.legend(loc="upper right", fontsize=11)
    bottom.plot(batch, n_recovered, color=GREEN, drawstyle="steps-post")
    bottom.set(
        xscale="log",
        ylim=(-0.3, n_features + 0.6),
        xlabel="training batch (log scale)",
        ylabel=f"recovered of {n_features}",
    )
    return fig


def plot_directions(directions: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Sets of directions side by side, a panel each direction, one coordinate a column.

    directions: up to three sets (n, d), such as {"true": …, "learned": …}; names: one a panel.
    Coordinates have no order, so no line joins them.
    """
    marks = (
        {"marker": "o", "markersize": 11, "markerfacecolor": "none", "color": BLUE},
        {"marker": "x", "markersize": 7, "markeredgewidth": 2, "color": ORANGE},
        {"marker": "_", "markersize": 9, "markeredgewidth": 2, "color": GREY},
    )
    columns, rows = 5, -(-len(names) // 5)
    fig, axes = plt.subplots(
        rows, columns, figsize=(8, 0.5 + 2.1 * rows), sharex=True, sharey=True, squeeze=False
    )
    for ax in axes.flat[len(names) :]:
        ax.remove()
    for i, (ax, name) in enumerate(zip(axes.flat, names, strict=False)):
        ax.axhline(0, color=GREY, linewidth=0.8)
        for (label, rows_), mark in zip(directions.items(), marks, strict=False):
            ax.plot(np.asarray(rows_)[i], linestyle="", label=label, **mark)
        ax.set_title(name, fontsize=10, fontweight="normal")
        ax.set(ylim=(-1.15, 1.15), xticks=range(np.shape(rows_)[1]))
    fig.supxlabel("hidden coordinate", fontsize=12)
    fig.supylabel("value", fontsize=12)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper right", ncols=3)
    return fig


def plot_firing(strengths, latent_acts, partner_on, ax: Axes | None = None) -> Axes:
    """A feature's strength against its latent's activation, a dot an input: all (n,).

    partner_on: bool, the inputs that hold the opposite feature too; drawn in another mark.
    """
    ax = ax or plt.subplots(figsize=(6, 4.5))[1]
    ax.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1.2)
    strengths, latent_acts = np.asarray(strengths), np.asarray(latent_acts)
    partner_on = np.asarray(partner_on)
    for shown, mark, colour, label in (
        (~partner_on, ".", BLUE, "opposite feature off"),
        (partner_on, "x", ORANGE, "opposite feature on too"),
    ):
        ax.plot(strengths[shown], latent_acts[shown], mark, color=colour, alpha=0.6, label=label)
    ax.set(xlabel="strength of the feature (0 = off)", ylabel="activation of its latent")
    ax.legend(loc="upper left", fontsize=11)
    return ax


def plot_recovery(steps, counts, n_features: int, ax: Axes | None = None) -> Axes:
    """Recovered features over the training batches, a thin line a seed: counts (n, n_logged)."""
    ax = ax or plt.subplots(figsize=(8, 3.6))[1]
    batch, counts = np.asarray(steps) + 1, np.asarray(counts)
    ax.plot(batch, counts.T, color=BLUE, alpha=0.15, linewidth=1)
    ax.plot(batch, counts.mean(axis=0), color=BLUE, linewidth=3, label=f"mean of {len(counts)}")
    ax.set(xscale="log", xlabel="training batch (log scale)", ylim=(-0.3, n_features + 0.6))
    ax.set(ylabel=f"recovered of {n_features}")
    return ax


def plot_bars(values: dict[str, Sequence[float]], total: int, ax: Axes | None = None) -> Axes:
    """Recovered features for each condition: a bar for the mean, a dot for every seed."""
    ax = ax or plt.subplots(figsize=(8, 0.9 + 0.42 * len(values)))[1]
    for row, counts in enumerate(values.values()):
        mean = np.mean(counts)
        ax.barh(row, mean, color="#9ecae1", height=0.6)
        ax.plot(counts, np.full(len(counts), row), "o", color=BLUE, markersize=5, alpha=0.6)
        text = f"{mean:.1f}".removesuffix(".0")
        ax.text(total * 1.03, row, text, va="center")
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
        colour = "white" if value > 0.75 else "black"
        ax.text(column, row, f"{value:.0%}", ha="center", va="center", color=colour)
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

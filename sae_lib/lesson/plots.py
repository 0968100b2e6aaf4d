"""Figures. They take arrays, draw on `ax` (or a new figure) and return it; none trains.

Titles are computed from what is drawn; cosines in them are rounded down, never up.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sae_lib.metrics import fires, match_features

INK, SOFT, LINE = "#1d2125", "#5b6570", "#b9c2ca"  # text, second to it, axes
BLUE, ORANGE, GREEN, PURPLE, GREY = "#005f9e", "#D55E00", "#009E73", "#9a4f96", "#6b6b6b"
PALE = "#a9cfe8"
# for features side by side: each a step lighter than the one before, so that they stay four
# to a colour-blind eye and in grey print
FEATURES = ("#2d2670", "#b8390c", "#26a693", "#f5bd45")
# Blue for -1, white for 0, red for 1. The usual maps end in a blue and a red of the same
# lightness, which are one grey on a poor projector or in print; here the red is far darker.
DIVERGING = LinearSegmentedColormap.from_list("signed", ["#4a90c4", "white", "#8e0a1e"], N=257)
STYLE = dict.fromkeys(["font.size", "legend.fontsize", "axes.titlesize", "figure.titlesize"], 12)
STYLE |= dict.fromkeys(["axes.titleweight", "figure.titleweight"], "bold")
STYLE |= dict.fromkeys(["axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"], SOFT)
STYLE |= dict.fromkeys(["axes.edgecolor", "xtick.color", "ytick.color"], LINE)
STYLE |= dict.fromkeys(["axes.spines.top", "axes.spines.right"], False)
STYLE |= {"text.color": INK, "axes.titlelocation": "left", "lines.linewidth": 2.2}
STYLE |= {"legend.edgecolor": "none", "legend.framealpha": 1, "legend.borderpad": 0.1}
STYLE |= {"figure.dpi": 100, "figure.constrained_layout.use": True}
MOST = 100  # rows, and columns, that a heatmap shows; of more the first
# a decorator: draw in this style alone, so that nothing disappears where a dark one is set
styled = plt.style.context(["default", STYLE])


def down(value: float, digits: int = 2) -> str:
    """So many decimals, towards zero: what misses 0.99 is not written as 0.99."""
    cut = np.trunc(10**digits * value + 1e-9 * np.sign(value)) / 10**digits
    return f"{cut:.{digits}f}".replace("-", "−")


def _lasting(holds: np.ndarray, batches: np.ndarray) -> int | None:
    """The batch from which on it always holds, or None."""
    first = max(np.flatnonzero(~holds), default=-1) + 1
    return batches[first] if first < len(holds) else None


@styled
def plot_matrix(matrix, ax=None, *, yticks=None, marked=(), numbers=2.0, one=0.99) -> Axes:
    """A signed matrix as a heatmap from -1 (blue) over 0 (white) to 1 (dark red).

    marked: (row, column) cells to frame. numbers: write the value in cells at least this far
    from 0 (so, by default, in none), where it fits; from `one` on it is written as 1.
    """
    full = np.shape(matrix)
    matrix = np.asarray(matrix)[:MOST, :MOST]
    rows, columns = matrix.shape
    ax = ax or plt.subplots(figsize=(6, 1.2 + 0.27 * min(rows, 30)))[1]
    ax.imshow(matrix, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto")
    names = list(range(rows) if yticks is None else yticks)
    every = -(-rows // 30), -(-columns // 15)  # not more than fit
    ax.set_yticks(range(0, rows, every[0]), names[: rows : every[0]])
    ax.set_xticks(range(0, columns, every[1]))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(True)  # a row of zeros is white
    for row, column in marked:
        box = (column - 0.5, row - 0.5)
        if row < rows and column < columns:
            ax.add_patch(Rectangle(box, 1, 1, fill=False, edgecolor=INK, linewidth=2))
    wide, high = ax.bbox.width / 100 / columns, ax.bbox.height / 100 / rows  # inches of a cell
    for (row, column), value in np.ndenumerate(matrix if high > 0.2 else matrix[:0]):
        text = down(value if abs(value) < one else np.sign(value))
        text = text.replace("0.", ".").removesuffix(".00")
        if abs(value) >= numbers and 0.1 * len(text) + 0.02 < wide:
            colour = "white" if value > 0.7 else INK
            ax.text(column, row, text, ha="center", va="center", color=colour)
    if full != matrix.shape:
        some = f"the first {rows} × {columns}\nof {full[0]:,} × {full[1]:,}"
        place = {"ha": "right", "va": "bottom", "transform": ax.transAxes}
        ax.text(0.99, 0.01, some, color=SOFT, bbox={"color": "white", "pad": 2}, **place)
    return ax


@styled
def plot_sorted(cosines, latent_acts=None, ax=None, *, title="", one=0.99, numbers=0.99) -> Axes:
    """Cosines (d_sae, n_features) as a heatmap, each feature's own latent first.

    Below them the others: redundant, then dead, if latent_acts (n, d_sae) tell which is which.
    Sorting alone draws a diagonal, also from chance: so latents that point along no feature are
    faded. A frame for each found feature, at a cosine of `one` or more; the title counts them.
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
    faded = np.where(cosines[order].max(axis=1, keepdims=True) >= one, 1, 0.25)
    ax.images[0].set_alpha(np.broadcast_to(faded, cosines.shape)[:MOST, :MOST])
    end = -0.5
    for name, members in groups.items():
        start, end = end, min(end + len(members), MOST - 0.5)
        if end > start:
            ax.axhline(end, color=INK, linewidth=1.2)
            place = {"xycoords": ("axes fraction", "data"), "rotation": 90, "va": "center"}
            ax.annotate(name, (1.02, (start + end) / 2), color=SOFT, **place)
    title = f"{title}: " * bool(title) + f"{len(frames)} of {cosines.shape[1]} found"
    ax.set(title=title, xlabel="feature", ylabel="latent")
    return ax


@styled
def plot_chance(chance, cosine) -> Figure:
    """The worst matched cosine, a line, beside the worst and the mean of random dictionaries.

    chance (n_draws, n_features); cosine (n_features,), nan for a feature without a latent.
    """
    chance, cosine = np.asarray(chance), np.asarray(cosine)
    fig, ax = plt.subplots(figsize=(6, 2.9))
    worst_of_chance = np.nanmin(chance, axis=1)
    drawn = ("mean", np.nanmean(chance, axis=1), PALE), ("worst", worst_of_chance, GREY)
    for name, values, colour in drawn:
        counts, *_ = ax.hist(values, np.linspace(0, 1, 51), color=colour, edgecolor="white")
        ax.text(np.median(values), 1.04 * counts.max(), name, ha="center", color=SOFT)
    worst = "none" if np.isnan(cosine).any() else down(cosine.min(), 3)
    if worst != "none":
        ax.axvline(cosine.min(), ymax=0.9, color=ORANGE, linewidth=3, clip_on=False)
        at = {"xycoords": ("data", "axes fraction"), "ha": "right", "color": ORANGE}
        ax.annotate("this SAE ", (cosine.min(), 0.82), **at)
    limit = np.ceil(100 * worst_of_chance.max() - 1e-9) / 100  # up, as it bounds from above
    ax.set(xlim=(0, 1), yticks=(), ylim=(0, 1.15 * ax.dataLim.y1))
    ax.set_xlabel(f"matched cosine; grey and pale: {len(chance)} random dictionaries")
    ax.spines["left"].set_visible(False)
    ax.set_title(f"Worst cosine {worst}; by chance, the worst is at most {limit:.2f}")
    return fig


@styled
def plot_training(
    history, found, n_features: int, *, variance: float, oracle_loss: float, true_l0: float,
    final_l0: float,
) -> tuple[Figure, Figure, Figure]:  # fmt: skip
    """Loss, L0 and recovery over the training batches: three figures with one x axis.

    found (n_logged,): recovered features. variance: of the activations, summed over d_in; an
    error below a hundredth of it counts as gone. oracle_loss, true_l0: what the ground truth
    has. final_l0: over all activations, as the last batch alone is noisy.
    """
    curves = history.step, history.reconstruction, history.sparsity, history.l0
    step, error, price, l0 = map(np.array, curves)
    batch = step + 1  # the first is 1
    gone = _lasting(error < 0.01 * variance, batch)
    complete = _lasting(np.asarray(found) >= n_features, batch)
    sides = {"left": 0.14, "right": 0.97, "bottom": 0.19, "top": 0.88}  # the same: axes line up
    look = {"figsize": (6, 3), "layout": "none", "gridspec_kw": sides}
    loss, sparsity, recovery = panels = [plt.subplots(**look)[1] for _ in range(3)]
    total = error + price
    loss.plot(batch, total, color=INK, label="total")
    loss.plot(batch, error, "--", color=BLUE, label="squared error")
    loss.plot(batch, price, "-.", color=ORANGE, label="λ · L1")
    loss.axhline(oracle_loss, color=GREY, linestyle=":", label="oracle's total")
    loss.set(yscale="log", ylabel="loss (log)", ylim=(None, 300 * max(1e-9, *total)))
    loss.set_title(f"Loss: from {total[0]:.2g} to {total[-1]:.2g}")
    sparsity.plot(batch, l0, color=PURPLE, label="latents that fire")
    sparsity.axhline(true_l0, color=GREY, linestyle=":", label="features on")
    sparsity.set(ylabel="L0", ylim=(0, 1.5 * max(l0.max(), true_l0, 1)))
    sparsity.set_title(f"L0: at most {l0.max():.1f}, at the end {final_l0:.1f}")
    recovery.plot(batch, found, color=GREEN, drawstyle="steps-post", label="found")
    recovery.set(ylim=(-0.03 * n_features, 1.35 * n_features), ylabel=f"found of {n_features}")
    recovery.yaxis.get_major_locator().set_params(integer=True)
    title = f"{found[-1]} of {n_features} at the end"
    recovery.set_title(f"All {n_features} from batch {complete:,} on" if complete else title)
    moments = {"error gone": (gone, BLUE), "all found": (complete, GREEN)}
    for i, ax in enumerate(panels):  # they are uncovered one by one: the first gives nothing away
        _over_batches(ax, batch[-1], dict([*moments.items()][:i]))
    return tuple(ax.figure for ax in panels)


def _over_batches(ax: Axes, last: int, moments: Mapping[str, tuple]) -> None:
    """A logarithmic axis of batches, a line at each moment that there was, and the legend."""
    for name, (batch, colour) in moments.items():
        if batch:
            ax.axvline(batch, color=colour, linestyle=(0, (4, 3)), linewidth=1.2, label=name)
    ax.set(xscale="log", xlabel="training batch (log)", xlim=(0.9, 1.1 * last + 1))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.xaxis.set_minor_formatter("")
    ax.legend(loc="upper left", ncols=3, borderaxespad=0, columnspacing=1)


@styled
def plot_directions(ground_truth, learned: Mapping[str, np.ndarray]) -> Figure:
    """Features side by side, neuron by neuron: a bar for the ground truth, one for the learned.

    ground_truth (n, d), learned: one or two sets (n, d), row j for feature j, nan if it has none;
    the second set is pale. All are drawn up to 12 features, of more the ten worst by the first
    set; of more than 20 neurons the first 20.
    """
    sets = {"ground truth": ground_truth, **learned}
    sets = {name: np.asarray(rows, float) for name, rows in sets.items()}
    sets = {name: rows / np.linalg.norm(rows, axis=1)[:, None] for name, rows in sets.items()}
    true, first, *_ = sets.values()
    cosine = (true * first).sum(axis=1)
    n, neurons = len(true), np.arange(min(true.shape[1], 20))
    shown = range(n) if n <= 12 else np.nan_to_num(cosine, nan=-2).argsort(kind="stable")[:10]
    rows, height = -(-len(shown) // 5), 0.7 / len(sets)
    look = {"figsize": (6.5, 1 + rows * (0.5 + 0.18 * len(neurons))), "squeeze": False}
    fig, axes = plt.subplots(rows, min(n, 5), sharex=True, sharey=True, **look)
    for ax in axes.flat[len(shown) :]:
        ax.remove()
    for ax, j in zip(axes.flat, shown, strict=False):
        for i, (name, directions) in enumerate(sets.items()):
            at = neurons + (i + 0.5) * height - 0.35
            ax.barh(at, directions[j, neurons], height, color=(BLUE, ORANGE, LINE)[i], label=name)
        ax.axvline(0, color=LINE, linewidth=1)
        score = "none" if np.isnan(cosine[j]) else down(cosine[j], 3).replace("0.", ".")
        ax.set_title(f"f{j}: {score}", fontweight="normal")
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        ax.set(xlim=(-1.08, 1.08), ylim=(len(neurons) - 0.4, -0.6), xticks=(-0.5, 0.5))
        ax.set_yticks(neurons[:: 1 + len(neurons) // 10])
    some = f" (the first 20 of {true.shape[1]:,})" if true.shape[1] > 20 else ""
    fig.supylabel(f"neuron{some}", fontsize=12, color=SOFT)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    which = f"All {n} features" if len(shown) == n else f"The ten worst of {n:,} features"
    alone = np.isnan(cosine).sum()
    end = f"{alone} without a latent" if alone else f"worst cosine {down(cosine.min(), 3)}"
    fig.suptitle(f"{which}; {end}", x=0.01, ha="left")
    return fig


@styled
def plot_firing(strengths, latent_acts, partner_on) -> Axes:
    """A feature's strength against its latent's activation, one dot per input: all (n,).

    partner_on: bool, the inputs that contain the opposite feature too, drawn in another mark.
    """
    ax = plt.subplots(figsize=(6, 4))[1]
    ax.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2)
    strengths, latent_acts = np.asarray(strengths), np.asarray(latent_acts)
    with_partner = np.asarray(partner_on)
    for shown, mark, colour, label in (
        (~with_partner, ".", BLUE, "opposite feature off"),
        (with_partner, "x", ORANGE, "opposite feature on too"),
    ):
        look = {"color": colour, "alpha": 0.6, "mew": 1.4, "clip_on": False}
        ax.plot(strengths[shown], latent_acts[shown], mark, label=label, **look)
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
def plot_bars(values: Mapping[str, Sequence[float]], total: int) -> Figure:
    """Recovered features for each condition: a bar for the mean, a dot for every seed."""
    fig, ax = plt.subplots(figsize=(6, 1.1 + 0.46 * len(values)))
    for row, counts in enumerate(values.values()):
        ax.barh(row, np.mean(counts), color=PALE, height=0.7)
        apart = np.linspace(-0.22, 0.22, len(counts)) if len(counts) > 1 else 0  # none hidden
        at = row + apart * np.ones(len(counts))
        ax.plot(counts, at, "o", color=BLUE, markersize=5, clip_on=False)
        mean = f"{np.mean(counts):.1f}".removesuffix(".0")
        ax.text(total * 1.04, row, mean, va="center_baseline")
    ax.set_yticks(range(len(values)), list(values))
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.set(xlim=(0, total * 1.14), xlabel=f"features found (of {total})")
    ax.invert_yaxis()
    complete = sum(min(counts) >= total for counts in values.values())
    each = ", on every seed" if max(map(len, values.values())) > 1 else ""
    fig.suptitle(f"{complete} of {len(values)} find all {total}{each}", x=0.01, ha="left")
    return fig

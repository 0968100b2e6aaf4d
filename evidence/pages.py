"""The lesson's generated cells: figures and tables as Markdown, drawn from the stored numbers.

The author's command writes PAGES[name]() below the line `<!-- evidence: name -->` of a cell.
"""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from evidence.tables import markdown, pooled
from sae_lib.lesson import plots
from sae_lib.lesson.show import picture

MARKS = {10: (plots.BLUE, "o"), 15: (plots.ORANGE, "s"), 20: (plots.GREEN, "^")}


def made_by(names: str, what: str = "16 SAE seeds × 3 base models") -> str:
    return f"*{what}. Made by `python -m evidence.run {names}`.*"


MAP = made_by("map", "16 SAE seeds (8 for 10 and 20 in 5) × 3 base models")


def setting(l1, k) -> str:
    return f"k = {k}" if k else f"λ = {l1:g}"


def mean(values: np.ndarray, how: str) -> str:
    """The mean in this format; "cos": two decimals, rounded down as cosines are everywhere."""
    if how == "cos":
        return plots.down(values.mean())
    return f"{values.mean():{how}}".replace("%", " %")


def listed(points: dict) -> str:
    """Shares in words, rounded down as in the figures."""
    return ", ".join(f"{name}: {np.floor(100 * y + 1e-9):.0f} %" for name, y in points.items())


def summary(groups: dict, columns: dict, corner: str = "", across: bool = False) -> str:
    """A line for each group, a column for each number; across: the other way round.

    groups: {label: its numbers}; columns: {heading: (column of the data, format of its mean)}.
    Without a format, it is how many of the runs have it.
    """
    lines = [[corner, *columns]]
    for label, group in groups.items():
        cells = [mean(group[c], *how) if how else group[c].sum() for c, *how in columns.values()]
        lines.append([label, *cells])
    header, *lines = zip(*lines, strict=True) if across else lines
    return markdown(header, lines)


@plots.styled
def plot_map(values, xticks: Sequence, yticks: Sequence, ax: Axes | None = None) -> Axes:
    """Shares from 0 to 1 as a grid of percentages (rounded down), darker for more."""
    values = np.asarray(values)
    ax = ax or plt.subplots(figsize=(6, 1.3 + 0.5 * len(values)))[1]
    ax.imshow(values, cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value > 0.75 else "black"
        share = f"{np.floor(100 * value + 1e-9):.0f}%"
        ax.text(column, row, share, ha="center", va="center", color=colour)
    ax.set_xticks(range(len(xticks)), [str(x).removesuffix(".0") for x in xticks])
    ax.set_yticks(range(len(yticks)), yticks)
    ax.tick_params(length=0)
    return ax


@plots.styled
def plot_phase(curves: Mapping[str, Mapping[int, tuple]]) -> Axes:
    """Share of features recovered against features per dimension, with a line at 2.

    curves: {method: {d: (n_over_d, share)}}; up to two methods, told apart by dash and colour,
    up to four d, told apart by their marks.
    """
    ax = plt.subplots(figsize=(6, 3.8))[1]
    marks = dict(zip(sorted({d for of in curves.values() for d in of}), "os^D", strict=False))
    looks = ((plots.BLUE, "-"), (plots.ORANGE, "--"))
    for (method, of), (colour, dash) in zip(curves.items(), looks, strict=False):
        ax.plot([], [], dash, color=colour, label=method)
        for d, (n_over_d, share) in of.items():
            ax.plot(n_over_d, share, dash, marker=marks[d], color=colour, markersize=7)
    for d, mark in marks.items():
        ax.plot([], [], mark, color="black", label=f"d = {d}")
    ax.axvline(2, color="black", linestyle=":")
    ax.annotate(" n = 2d", (2, 1.02), xycoords=("data", "axes fraction"))
    ax.set(xlabel="features per dimension, n / d", ylabel="share found", ylim=(-0.03, 1.05))
    ax.legend()
    shares = [
        (n, s) for of in curves.values() for xy in of.values() for n, s in zip(*xy, strict=True)
    ]
    least = np.floor(100 * min(s for n, s in shares if n <= 2) + 1e-9)
    ax.set_title(f"Up to n = 2d at least {least:.0f} % are found", pad=22)
    return ax


def switch() -> str:
    data = {phase: group for (phase, l1), group in pooled("switch").items() if l1 in (0, 0.01)}
    names = {
        "off": "3,000 batches at λ = 0",
        "off, off": "then 3,000 more at λ = 0",
        "on": "or then 3,000 at λ = 0.01",
        "off again": "and then 3,000 at λ = 0 again",
    }
    for group in data.values():
        group["worst"] = np.array([group["fvu"].max()])
    columns = {"found of 10": ("recovered", ".1f"), "all ten, of 24 runs": ("complete",)}
    columns |= {"L0": ("l0", ".1f"), "unexplained (FVU), at most": ("worst", ".0e")}
    batches = data["on"]["all found from batch"]
    then = f"In these longer runs all ten are found from batch {np.median(batches):,.0f} (median) "
    then += f"and {batches.max():,} (latest) on, counted from the switch."
    table = summary({names[phase]: group for phase, group in data.items()}, columns)
    return "\n\n".join([table, then, made_by("switch", "8 SAE seeds × 3 base models")])


def splice() -> str:
    groups = {what: group for (what,), group in pooled("splice").items()}
    groups["frozen random decoder"] = groups.pop("frozen decoder")
    columns = {"found of 10": ("recovered", ".1f"), "unexplained": ("fvu", ".1%")}
    columns |= {"the model's loss recovered": ("loss recovered", ".1%")}
    columns |= {"outputs moved by a latent": ("outputs moved", ".2f")}
    return summary(groups, columns, "SAE") + "\n\n" + made_by("splice")


def width() -> str:
    groups = {d_sae: group for (d_sae,), group in pooled("widths").items()}
    for group in groups.values():
        group["runs"] = np.ones_like(group["recovered"])
    columns = {"found of 10": ("recovered", ".1f"), "all ten": ("complete",), "runs": ("runs",)}
    columns |= {"always-on latents": ("always on", ".1f"), "twins (spare copies)": ("twins", ".1f")}
    what = "Means. 3 base models, λ = 0.001, 8,000 steps. Always on: fires on nine inputs of ten"
    return summary(groups, columns, "latents") + "\n\n" + made_by("widths", what)


def by_case(name: str, column: str, how: str, corner: str) -> list[list]:
    """A header and a line for each method, a column for each case."""
    groups = pooled(name)
    cases = list(dict.fromkeys(case for case, _ in groups))
    methods = dict.fromkeys(method for _, method in groups if column in groups[cases[0], method])
    return [[corner, *cases]] + [
        [m, *(mean(groups[c, m][column], how) for c in cases)] for m in methods
    ]


def baselines() -> str:
    header, *lines = by_case("baselines", "recovered", ".1f", "found, mean")
    lines = [line for line in lines if line[0] != "k-means, 2n clusters"]  # n do a little better
    _, *seconds = by_case("baselines", "seconds per million", ".2g", "")
    settings = {"L1 SAE": " (λ = 0.001, 0.2, 0.1)", "TopK SAE": " (k = 1, 1, 5)"}
    lines = [[method + settings.get(method, ""), *cells] for method, *cells in lines]
    lines += [
        [f"*{method}: seconds for a million codes*", *(f"{float(cell):g}" for cell in cells)]
        for method, *cells in seconds
    ]
    what = "3 base models; 16 SAE seeds, 2 of other methods (for 100 in 30: 2 and 1). n: features"
    return markdown(header, lines) + "\n\n" + made_by("baselines", what)


def reading() -> str:
    header, *lines = by_case("reading", "f1", ".2f", "F1")
    lines = [line for line in lines if line[0] != "one layer, on or off"]  # as the strength is
    lines[0][0] = "one layer, told the truth"
    what = "Mean F1 of which features are on; one SAE on each of 3 base models, best threshold each"
    return markdown(header, lines) + "\n\n" + made_by("reading", what)


def phase() -> str:
    curves: dict[str, dict] = {"λ falling to 0.001": {}, "TopK, k = 1": {}}
    for (d, n, _, k), group in pooled("phase").items():
        of = curves["TopK, k = 1" if k else "λ falling to 0.001"].setdefault(d, ([], []))
        of[0].append(n / d)
        of[1].append(group["recovered"].mean() / n)
    alt = "Share of features recovered, against features per dimension."
    for method, of in curves.items():
        for d, points in of.items():
            shares = {f"{x * d:.0f}": y for x, y in zip(*points, strict=True)}
            alt += f" {method}, {d} dimensions: {listed(shares)}."
    fig = plot_phase(curves).figure
    what = "4 SAE seeds (2 at k = 1) × 3 base models for each point"
    return picture(fig, alt) + "\n\n" + made_by("phase", what)


@plots.styled
def crowded_map() -> str:
    groups = pooled("map")
    crowds = sorted({n for n, _, _ in groups})
    these = {setting(l1, k): group for (n, l1, k), group in groups.items() if n == 15}
    halves = {
        "λ of an L1 SAE": [(l1, k) for n, l1, k in groups if n == 15 and l1],
        "k of a TopK SAE": [(l1, k) for n, l1, k in groups if n == 15 and k],
    }
    widths = [len(half) for half in halves.values()]
    fig, axes = plt.subplots(1, 2, figsize=(6.5, 2.8), width_ratios=widths)
    alt = "Share of features recovered."
    for ax, (name, half) in zip(axes, halves.items(), strict=True):
        shares = [[groups[n, *s]["recovered"].mean() / n for s in half] for n in crowds]
        plot_map(shares, [l1 or k for l1, k in half], crowds, ax)
        ax.set_xlabel(name)
        for n, row in zip(crowds, shares, strict=True):
            cells = {setting(*s): v for s, v in zip(half, row, strict=True)}
            alt += f" {n} in 5: {listed(cells)}."
    axes[0].set_ylabel("features in 5")
    axes[1].set_yticks([])
    fig.suptitle("Share of features recovered", x=0.01, ha="left")
    true_l0 = mean(next(iter(these.values()))["true l0"], ".2f")
    columns = {"found of 15, mean": ("recovered", ".1f"), "all 15, of 48 runs": ("complete",)}
    columns |= {"unexplained (FVU)": ("fvu", ".1%"), f"L0 (true: {true_l0})": ("l0", ".2f")}
    columns |= {"agreement of two seeds": ("agreement", ".2f")}
    return "\n\n".join([picture(fig, alt), summary(these, columns, "15 in 5", across=True), MAP])


def cost() -> str:
    groups = {l1: group for (l1,), group in pooled("cost").items()}
    mean_of = {l1: [g["error"].mean(), g["activity"].mean()] for l1, g in groups.items()}
    header = ["15 in 5", "found", "error", "activity", *(f"cost at λ = {l1:g}" for l1 in groups)]
    lines = [
        [f"trained at λ = {l1:g}", mean(groups[l1]["recovered"], ".1f"), f"{e:.3f}", f"{a:.2f}"]
        + [f"{e + price * a:.4f}" for price in groups]
        for l1, (e, a) in mean_of.items()
    ]
    (error, activity), (other_error, other_activity) = mean_of.values()
    even = (other_error - error) / (activity - other_activity)
    then = f"The two codes cost the same at λ = {even:.2f}: below it the exact one is cheaper, "
    then += "above it the other. (Activity: the sum of the latents. Cost: error + λ · activity.)"
    return "\n\n".join([markdown(header, lines), then, made_by("cost")])


@plots.styled
def agreement() -> str:
    fig, ax = plt.subplots(figsize=(6.5, 4.2))
    fooled, modest = [], 0
    for (n, l1, k), group in pooled("map").items():
        colour, marker = MARKS[n]
        agreed, found = group["agreement"].mean(), group["recovered"].mean() / n
        fill = "white" if k else colour
        ax.plot(agreed, found, marker, color=colour, markerfacecolor=fill, markersize=9)
        modest += agreed < 0.9 and found > 0.99
        if agreed >= 0.8 and found < 0.75:
            fooled.append(f"{n} in 5, {setting(l1, k)}")
            ax.plot(agreed, found, "o", color="black", markerfacecolor="none", markersize=19)
            ax.annotate(fooled[-1], (agreed - 0.06, found), ha="right", va="center")
    for n, (colour, marker) in MARKS.items():
        ax.plot([], [], marker, color=colour, markersize=9, label=f"{n} in 5")
    ax.plot([], [], "o", color="black", markersize=9, label="filled: L1")
    ax.plot([], [], "o", color="black", markerfacecolor="white", markersize=9, label="open: TopK")
    ax.set(xlim=(-0.03, 1.05), ylim=(-0.03, 1.08), ylabel="share of features recovered")
    ax.set(xlabel="agreement of two seeds (needs no truth)")
    ax.set_title("Circled: two seeds agree, and miss")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    alt = (
        "A mark for each setting: agreement of two seeds, and share of features recovered. "
        f"{modest} settings recover over 99 % at an agreement below 0.9. At 0.8 or more, and below "
        f"75 % recovered: {'; '.join(fooled) or 'none'}."
    )
    return picture(fig, alt) + "\n\n" + MAP


def absorption() -> str:
    groups = {name: group for (name,), group in pooled("absorption").items()}
    inputs = ("A alone", "A and an independent C", "A and B")
    columns = {name: (f"A's fires on {name}", ".2f") for name in inputs}
    return (
        summary(groups, columns, "share of the inputs on which A's latent fires")
        + "\n\n"
        + made_by("absorption")
    )


def matryoshka() -> str:
    groups = {
        {"SparseAutoencoder": "plain"}.get(k, k): g for (k,), g in pooled("matryoshka").items()
    }
    columns = {"cosine with the parent": ("cos(parent's, parent)", "cos")}
    columns |= {"fires on the parent alone": ("parent's fires alone", ".2f")}
    columns |= {"on parent and child": ("parent's fires with a child", ".2f")}
    columns |= {"agreement of two seeds": ("agreement", ".2f")}
    return summary(groups, columns, "a parent's latent, λ = 0.03") + "\n\n" + made_by("matryoshka")


def rare() -> str:
    groups = {
        f"{exponent:g}" + (f" ({n_steps:,} steps)" if n_steps > 2_000 else ""): group
        | {"once in": 1 / group["p of the rarest"]}
        for (exponent, n_steps), group in pooled("rare").items()
    }
    columns = {
        "the rarest is on once in": ("once in", ",.0f"),
        "found of 100": ("recovered", ".1f"),
    }
    columns |= {
        f"of the 50 {which}": (f"of the 50 {which}", ".1f") for which in ("commonest", "rarest")
    }
    columns |= {"unexplained": ("fvu", ".1%")}
    what = "TopK, k = 5, 2 SAE seeds × 3 base models, 2,000 steps"
    return summary(groups, columns, "$a$") + "\n\n" + made_by("rare", what)


def l0_too_low() -> str:
    groups = {f"k = {k}": group for (k,), group in pooled("l0_too_low").items()}
    columns = {"found of 20, mean": ("recovered", ".1f"), "unexplained": ("fvu", ".0%")}
    columns |= {"agreement of two seeds": ("agreement", ".2f")}
    made = made_by("l0_too_low", "8 SAE seeds × 3 base models")
    return summary(groups, columns, "five of 20 on at a time", across=True) + "\n\n" + made


PAGES: dict[str, Callable[[], str]] = {"map": crowded_map} | {
    page.__name__: page
    for page in (
        *(switch, splice, width, baselines, phase, cost, agreement, reading),
        *(absorption, matryoshka, rare, l0_too_low),
    )
}

"""The lesson's generated cells: figures and tables as Markdown, drawn from the stored numbers.

Which experiment each belongs to, `EXPERIMENTS` in evidence/run.py says.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from evidence.common import load, markdown, pooled
from sae_lib.lesson import plots
from sae_lib.lesson.show import picture


def made_by(name: str, what: str = "16 SAE seeds × 3 toy models") -> str:
    before = " in the third edition" if load(name)["edition"] == 3 else ""
    return f"*{what}. Made{before} by `.venv/bin/python -m evidence.run {name}`.*"


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
    """Share of features found against features per dimension, with a line at 2.

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
    columns |= {"L0": ("l0", ".1f"), "FVU, at most": ("worst", ".0e")}
    batches = data["on"]["all found from batch"]
    then = f"Half of the runs have all ten by batch {np.median(batches):,.0f} after the switch, "
    then += f"and the slowest by batch {batches.max():,}."
    table = summary({names[phase]: group for phase, group in data.items()}, columns, "training")
    return "\n\n".join([table, then, made_by("switch", "8 SAE seeds × 3 toy models")])


def patience() -> str:
    groups = {f"{n:,}": group for (n,), group in pooled("patience", "looked at").items()}
    for group in groups.values():
        found = group["recovered"]
        group["most"], group["none"] = np.array([found.max()]), found == 0
    columns = {"found of 10, mean": ("recovered", ".1f"), "most in one run": ("most", ".0f")}
    columns |= {"runs with none, of 48": ("none",), "L0": ("l0", ".1f")}
    return summary(groups, columns, "batches at λ = 0") + "\n\n" + made_by("patience")


def splice() -> str:
    groups = {what: group for (what,), group in pooled("splice").items()}
    groups["frozen random decoder"] = groups.pop("frozen decoder")
    columns = {"found of 10": ("recovered", ".1f"), "FVU": ("fvu", ".1%")}
    columns |= {"the model's loss recovered": ("loss recovered", ".1%")}
    columns |= {"outputs moved by a latent": ("outputs moved", ".2f")}
    return summary(groups, columns, "SAE") + "\n\n" + made_by("splice")


def width() -> str:
    groups = {d_sae: group for (d_sae,), group in pooled("width").items()}
    for group in groups.values():
        group["runs"] = np.ones_like(group["recovered"])
    columns = {"found of 10": ("recovered", ".1f"), "all ten": ("complete",), "runs": ("runs",)}
    columns |= {"always-on latents": ("always on", ".1f"), "twins (spare copies)": ("twins", ".1f")}
    columns |= {"dead": ("dead", ".1f")}
    what = "Means. 3 toy models, λ = 0.001, 8,000 batches. Always on: fires on nine inputs of ten"
    return summary(groups, columns, "latents") + "\n\n" + made_by("width", what)


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
    _, *seconds = by_case("baselines", "seconds per million", ".2g", "")
    settings = {"L1 SAE": " (λ = 0.001, 0.2, 0.1)", "TopK SAE": " (k = 1, 1, 5)"}
    lines = [[method + settings.get(method, ""), *cells] for method, *cells in lines]
    lines += [
        [f"*{method}: seconds to encode a million*", *(f"{float(cell):g}" for cell in cells)]
        for method, *cells in seconds
    ]
    what = "3 toy models; 16 SAE seeds, 2 of other methods (for 100 in 30: 2 and 1). n: features"
    return markdown(header, lines) + "\n\n" + made_by("baselines", what)


def reading() -> str:
    header, *lines = by_case("reading", "f1", ".2f", "F1")
    lines[0][0] = "one layer, told the ground truth"
    what = "Mean F1 of which features are on; one SAE on each of 3 toy models, best threshold each"
    return markdown(header, lines) + "\n\n" + made_by("reading", what)


def phase() -> str:
    curves: dict[str, dict] = {"λ falling to 0.001": {}, "TopK, k = 1": {}}
    for (d, n, _, k), group in pooled("phase").items():
        of = curves["TopK, k = 1" if k else "λ falling to 0.001"].setdefault(d, ([], []))
        of[0].append(n / d)
        of[1].append(group["recovered"].mean() / n)
    alt = "Share of features found, against features per dimension."
    for method, of in curves.items():
        for d, points in of.items():
            shares = {f"{x * d:.0f}": y for x, y in zip(*points, strict=True)}
            alt += f" {method}, {d} dimensions: {listed(shares)}."
    fig = plot_phase(curves).figure
    what = "4 SAE seeds (2 at k = 1) × 3 toy models for each point"
    return picture(fig, alt) + "\n\n" + made_by("phase", what)


@plots.styled
def crowded_map() -> str:
    groups = pooled("map")
    crowds = sorted({n for n, _, _ in groups})
    these = {setting(l1, k): group for (n, l1, k), group in groups.items() if n == 15}
    halves = {
        "l1_coefficient (λ) of an L1 SAE": [(l1, k) for n, l1, k in groups if n == 15 and l1],
        "k of a TopK SAE": [(l1, k) for n, l1, k in groups if n == 15 and k],
    }
    widths = [len(half) for half in halves.values()]
    fig, axes = plt.subplots(1, 2, figsize=(6.5, 2.8), width_ratios=widths)
    alt = "Share of features found."
    for ax, (name, half) in zip(axes, halves.items(), strict=True):
        shares = [[groups[n, *s]["recovered"].mean() / n for s in half] for n in crowds]
        plot_map(shares, [l1 or k for l1, k in half], crowds, ax)
        ax.set_xlabel(name)
        for n, row in zip(crowds, shares, strict=True):
            cells = {setting(*s): v for s, v in zip(half, row, strict=True)}
            alt += f" {n} in 5: {listed(cells)}."
    axes[0].set_ylabel("features in 5")
    axes[1].set_yticks([])
    fig.suptitle("Share of features found", x=0.01, ha="left")
    true_l0 = mean(next(iter(these.values()))["true l0"], ".2f")
    columns = {"found of 15, mean": ("recovered", ".1f"), "all 15, of 48 runs": ("complete",)}
    columns |= {"FVU": ("fvu", ".1%"), f"L0 ({true_l0} features are on)": ("l0", ".2f")}
    columns |= {"agreement of two seeds": ("agreement", ".2f")}
    made = made_by(
        "map",
        "16 SAE seeds (8 for 10 and 20 in 5) × 3 toy models, 40 latents, 2,000 batches of 128",
    )
    return "\n\n".join([picture(fig, alt), summary(these, columns, "15 in 5", across=True), made])


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
    then = f"The two cost the same at λ = {even:.2f}. Below that price the exact code is cheaper, "
    then += "and above it the other one is. Activity is the sum of the latents, and cost is "
    then += "error + λ · activity."
    return "\n\n".join([markdown(header, lines), then, made_by("cost")])


def absorption() -> str:
    groups = {name: group for (name,), group in pooled("absorption").items()}
    inputs = ("A alone", "A and an independent C", "A and B")
    columns = {name: (f"A's fires on {name}", ".2f") for name in inputs}
    for group in groups.values():
        share = group["A's fires on A and B"]
        group["silent"], group["always"] = share < 0.05, share > 0.95
    columns |= {
        "runs where A and B silence it": ("silent",),
        "where it fires on all A and B": ("always",),
    }
    corner = "share of the inputs on which A's latent fires"
    return summary(groups, columns, corner) + "\n\n" + made_by("absorption")


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
        f"{exponent:g}" + (f" ({n_steps:,} batches)" if n_steps > 2_000 else ""): group
        | {"once in": 1 / group["p of the rarest"]}
        for (exponent, n_steps), group in pooled("rare").items()
    }
    columns = {"the rarest is on once in": ("once in", ",.0f")}
    columns |= {"found of 100": ("recovered", ".1f")}
    columns |= {
        f"of the 50 {which}": (f"of the 50 {which}", ".1f") for which in ("commonest", "rarest")
    }
    columns |= {"FVU": ("fvu", ".1%")}
    what = "TopK, k = 5, 2 SAE seeds × 3 toy models, 2,000 batches"
    return summary(groups, columns, "$a$") + "\n\n" + made_by("rare", what)


def rows_of_k() -> list[dict]:
    """For each case, k and toy model the means over its SAEs."""
    names = {"unexplained": "fvu", "agreement": "agreement", "mean_abs_cosine": "mean abs cosine"}
    names |= {"null_unexplained": "null fvu", "null_agreement": "null agreement"}
    rows = []
    for (case, k, _), group in pooled("choosing_k", "case", "k", "toy_model").items():
        found = group["recovered"].mean() / int(case.split()[0])
        means = {name: group[column].mean() for name, column in names.items()}
        rows.append({"case": case, "k": k, "found": found} | means)
    return rows


def choosing_k() -> str:
    rows = rows_of_k()
    formats = {"found": ".0%", "unexplained": ".1%", "null_unexplained": ".1%", "agreement": ".2f"}
    formats |= {"null_agreement": ".2f", "mean_abs_cosine": ".3f"}
    header = ["case", "k", "found", "FVU (unexplained)", "FVU, noise", "agreement"]
    lines = []
    for case, k in dict.fromkeys((row["case"], row["k"]) for row in rows):
        these = [row for row in rows if (row["case"], row["k"]) == (case, k)]
        cells = [mean(np.array([row[c] for row in these]), how) for c, how in formats.items()]
        lines.append([case, k, *cells])
    table = markdown([*header, "agreement, noise", "mean \\|cosine\\|"], lines)
    what = "TopK, 16 SAE seeds × 3 toy models. Noise: the activations' mean and covariance, 4 × 3"
    return "\n\n".join([table, made_by("choosing_k", what)])

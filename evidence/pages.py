"""The lesson's generated cells: figures and tables as Markdown, drawn from the stored numbers.

Which experiment each belongs to, `EXPERIMENTS` in evidence/run.py says.
"""

import base64
import html

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from evidence.common import markdown, pooled
from sae_lib.lesson import plots
from sae_lib.lesson.show import png


def picture(fig: Figure, alt: str) -> str:
    """The figure inside a text cell. Markdown's own ![…](…) cannot say how wide. Closes it."""
    data, width = png(fig)
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return f'<img alt="{html.escape(alt)}" width="{width}" src="{source}">'


def made_by(name: str, what: str = "16 SAE seeds × 3 toy models") -> str:
    return f"*{what}. Made by `.venv/bin/python -m evidence.run {name}`.*"


def mean(values: np.ndarray, how: str) -> str:
    """The mean in this format; "cos": two decimals, rounded down as cosines are everywhere."""
    if how == "cos":
        return plots.down(values.mean())
    return f"{values.mean():{how}}".replace("%", " %")


def percent(share: float) -> str:
    """Rounded down: 100 means all."""
    return plots.down(100 * share, 0)


def listed(shares: dict) -> str:
    """Shares in words."""
    return ", ".join(f"{name}: {percent(share)} %" for name, share in shares.items())


def summary(groups: dict, columns: dict, corner: str = "") -> str:
    """A line for each group, a column for each number.

    groups: {label: its numbers}; columns: {heading: (column of the data, format of its mean)}.
    Without a format, it is how many of the runs have it.
    """
    lines = [[corner, *columns]]
    for label, group in groups.items():
        cells = [mean(group[c], *how) if how else group[c].sum() for c, *how in columns.values()]
        lines.append([label, *cells])
    return markdown(lines[0], lines[1:])


def one_key(name: str, *keys: str) -> dict:
    """The groups of an experiment whose settings are one column."""
    return {key: group for (key,), group in pooled(name, *keys).items()}


def switch() -> str:
    data = {phase: group for (phase, l1), group in pooled("switch").items() if l1 in (0, 0.01)}
    names = {
        "off": "first 3,000 batches at λ = 0",
        "off, off": "A: then 3,000 more at λ = 0",
        "on": "B: or then 3,000 at λ = 0.01",
        "off again": "B, and then 3,000 at λ = 0 again",
    }
    for group in data.values():
        group["worst"] = group["fvu"].max()
    columns = {"found of 10": ("recovered", ".1f"), "all ten, of 24 runs": ("complete",)}
    columns |= {"L0": ("l0", ".1f"), "FVU, at most": ("worst", ".0e")}
    table = summary({names[phase]: group for phase, group in data.items()}, columns, "training")
    return table + "\n\n" + made_by("switch", "8 SAE seeds × 3 toy models")


def patience() -> str:
    n, found = max((n, group["recovered"]) for n, group in one_key("patience", "looked at").items())
    said = [
        "**Can patience replace the price?**",
        f"{len(found)} SAEs trained for {n:,} batches without one.",
        f"On average they found {found.mean():.1f} of ten.",
        f"The best of them found {found.max()}, and {(found == 0).sum()} found none.",
    ]
    return " ".join(said) + "\n\n" + made_by("patience")


def width() -> str:
    groups = one_key("width")
    for group in groups.values():
        group["runs"] = np.ones_like(group["recovered"])
    columns = {"all ten": ("complete",), "of runs": ("runs",)}
    columns |= {"always-on latents": ("always on", ".1f"), "twins (spare copies)": ("twins", ".1f")}
    columns |= {"dead": ("dead", ".1f")}
    what = "3 toy models, λ = 0.001, 8,000 batches. Always on: fires on nine inputs of ten"
    return summary(groups, columns, "latents") + "\n\n" + made_by("width", what)


def by_case(name: str, column: str, how: str, corner: str) -> list[list]:
    """A header and a line for each method, a column for each case."""
    groups = pooled(name)
    cases = list(dict.fromkeys(case for case, _ in groups))
    methods = dict.fromkeys(method for _, method in groups if column in groups[cases[0], method])
    lines = [[m, *(mean(groups[c, m][column], how) for c in cases)] for m in methods]
    return [[corner, *cases], *lines]


def baselines() -> str:
    header, *lines = by_case("baselines", "recovered", ".1f", "features found, mean")
    _, *seconds = by_case("baselines", "seconds per million", ".2g", "")
    settings = {"L1 SAE": " (λ = 0.001, 0.2, 0.1)", "TopK SAE": " (k = 1, 1, 5)"}
    lines = [[method + settings.get(method, ""), *cells] for method, *cells in lines]
    found = markdown(header, lines)
    times = markdown(["seconds to encode a million inputs", *header[1:]], seconds)
    what = "3 toy models; 16 SAE seeds, 2 of other methods (for 100 in 30: 2 and 1). n: features"
    return "\n\n".join([found, times, made_by("baselines", what)])


def reading() -> str:
    header, *lines = by_case("reading", "f1", ".2f", "F1")
    lines[0][0] = "one layer, told the ground truth"
    what = "Mean F1 of which features are on; one SAE on each of 3 toy models, best threshold each"
    return markdown(header, lines) + "\n\n" + made_by("reading", what)


@plots.styled
def phase() -> str:
    groups, marks = pooled("phase"), {3: "o", 5: "s", 8: "^"}
    methods = {"": ("λ falling to 0.001", "-", plots.BLUE), 1: ("TopK, k = 1", "--", plots.ORANGE)}
    fig, ax = plt.subplots(figsize=(6, 3.8))
    alt, least = "Share of features found, against features per dimension.", 1.0
    for kind, (method, dash, colour) in methods.items():
        ax.plot([], [], dash, color=colour, label=method)
        for d, mark in marks.items():
            of = {n: g for (of, n, _, k), g in groups.items() if (of, k) == (d, kind)}
            shares = {n: group["recovered"].mean() / n for n, group in of.items()}
            ax.plot(np.array([*shares]) / d, [*shares.values()], dash + mark, color=colour, ms=7)
            least = min([least, *(share for n, share in shares.items() if n <= 2 * d)])
            alt += f" {method}, {d} dimensions: {listed(shares)}."
    for d, mark in marks.items():
        ax.plot([], [], mark, color="black", label=f"d = {d}")
    ax.axvline(2, color="black", linestyle=":")
    ax.annotate(" n = 2d", (2, 1.02), xycoords=("data", "axes fraction"))
    ax.set(xlabel="features per dimension, n / d", ylabel="share found", ylim=(-0.03, 1.05))
    ax.set_title(f"Up to n = 2d at least {percent(least)} % are found", pad=22)
    ax.legend()
    what = "4 SAE seeds (2 at k = 1) × 3 toy models for each point"
    return picture(fig, alt) + "\n\n" + made_by("phase", what)


@plots.styled
def crowded_map() -> str:
    groups, crowds = pooled("map"), (10, 15, 20)
    fig, axes = plt.subplots(1, 2, figsize=(6.5, 2.8), width_ratios=(5, 3))
    alt = "Share of features found."
    for ax, sign, label in (
        (axes[0], "λ", "l1_coefficient (λ) of an L1 SAE"),
        (axes[1], "k", "k of a TopK SAE"),
    ):
        half = {(n, l1 or k): g for (n, l1, k), g in groups.items() if bool(k) == (sign == "k")}
        prices = [price for n, price in half if n == 15]
        shares = [[half[n, price]["recovered"].mean() / n for price in prices] for n in crowds]
        ax.imshow(shares, cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.75 else "black"
            look = {"ha": "center", "va": "center", "color": colour}
            ax.text(column, row, f"{percent(share)}%", **look)
        ax.set_xticks(range(len(prices)), [f"{price:g}" for price in prices])
        ax.set_yticks(range(3) if sign == "λ" else (), crowds if sign == "λ" else ())
        ax.tick_params(length=0)
        ax.set_xlabel(label)
        for n, row in zip(crowds, shares, strict=True):
            cells = {f"{sign} = {price:g}": s for price, s in zip(prices, row, strict=True)}
            alt += f" {n} in 5: {listed(cells)}."
    axes[0].set_ylabel("features in 5")
    fig.suptitle("Share of features found", x=0.01, ha="left")
    what = "16 SAE seeds (8 for 10 and 20 in 5) × 3 toy models, 40 latents, 2,000 batches of 128"
    return picture(fig, alt) + "\n\n" + made_by("map", what)


def cost() -> str:
    groups = one_key("cost")
    header = ["15 in 5", "found", "error", "activity", *(f"cost at λ = {l1:g}" for l1 in groups)]
    means = {l1: (g["error"].mean(), g["activity"].mean()) for l1, g in groups.items()}
    lines = [
        [f"trained at λ = {l1:g}", mean(groups[l1]["recovered"], ".1f"), f"{e:.3f}", f"{a:.2f}"]
        + [f"{e + price * a:.4f}" for price in groups]
        for l1, (e, a) in means.items()
    ]
    (error, activity), (other_error, other_activity) = means.values()
    even = (other_error - error) / (activity - other_activity)
    then = f"The two cost the same at λ = {even:.2f}. Below that price the exact code is cheaper, "
    then += "and above it the other one is. Activity is the sum of the latents, and cost is "
    then += "error + λ · activity."
    return "\n\n".join([markdown(header, lines), then, made_by("cost")])


def absorption() -> str:
    groups = one_key("absorption")
    inputs = ("A alone", "A and an independent C", "A and B")
    columns = {name: (f"A's fires on {name}", ".2f") for name in inputs}
    columns |= {"of 48 runs: silent on A and B": ("silent",)}
    columns |= {"of 48 runs: never silent": ("always",)}
    for group in groups.values():
        share = group["A's fires on A and B"]
        group["silent"], group["always"] = share < 0.05, share > 0.95
    corner = "share of the inputs on which A's latent fires"
    return summary(groups, columns, corner) + "\n\n" + made_by("absorption")


def matryoshka() -> str:
    groups = one_key("matryoshka")
    groups = {"plain": groups["SparseAutoencoder"], "Matryoshka": groups["Matryoshka"]}
    columns = {"cosine with the parent": ("cos(parent's, parent)", "cos")}
    columns |= {"fires on the parent alone": ("parent's fires alone", ".2f")}
    columns |= {"on parent and child": ("parent's fires with a child", ".2f")}
    columns |= {"agreement of two seeds": ("agreement", ".2f")}
    return summary(groups, columns, "a parent's latent, λ = 0.03") + "\n\n" + made_by("matryoshka")


def rare() -> str:
    groups = {}
    for (exponent, n_steps), group in pooled("rare").items():
        longer = f" ({n_steps:,} batches)" if n_steps > 2_000 else ""
        groups[f"{exponent:g}{longer}"] = group | {"once in": 1 / group["p of the rarest"]}
    columns = {
        "the rarest is on once in": ("once in", ",.0f"),
        "found of 100": ("recovered", ".1f"),
    }
    columns |= {
        f"of the 50 {half}": (f"of the 50 {half}", ".1f") for half in ("commonest", "rarest")
    }
    columns |= {"FVU": ("fvu", ".1%")}
    what = "TopK, k = 5, 2 SAE seeds × 3 toy models, 2,000 batches"
    return summary(groups, columns, "$a$") + "\n\n" + made_by("rare", what)


def choosing_k() -> str:
    crowded = {k: g for (case, k), g in pooled("choosing_k").items() if case == "15 in 5"}
    lines = [["15 in 5", *(f"k = {k}" for k in crowded)]]
    for name, column in ("found", "recovered"), ("two seeds agree", "agreement"):
        shares = (g[column].mean() / (15 if column == "recovered" else 1) for g in crowded.values())
        lines.append([name, *(f"{percent(share)} %" for share in shares)])
    lines.append(
        ["mean \\|cosine\\|", *(mean(g["mean abs cosine"], ".2f") for g in crowded.values())]
    )
    falling = markdown(lines[0], lines[1:])
    groups = pooled("choosing_k").values()
    agreed = max(group["null agreement"].mean() for group in groups)
    worse = min(group["null fvu"].mean() / group["fvu"].mean() for group in groups)
    agreed, worse = f"{np.ceil(100 * agreed):.0f} %", plots.down(worse, 1)
    said = [
        "In both cases the same SAEs did far worse **on noise** with the same mean and covariance.",
        f"At every $k$, two seeds shared at most {agreed} of their directions.",
        f"And the share left unexplained was at least {worse} times what it was on the real",
        "activations.",
    ]
    what = "TopK, 16 SAE seeds × 3 toy models, noise 4 × 3"
    return "\n\n".join([falling, " ".join(said), made_by("choosing_k", what)])

"""The lesson's generated cells: figures and tables as Markdown, drawn from the stored numbers.

tools/sync_notebook.py writes PAGES[name]() into the cells marked "experiment": name.
"""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np

from experiments.common import load
from sae_lib import plots
from sae_lib.lesson.figures import data_uri

N = "16 SAE seeds × 3 base models"


def picture(fig, alt: str) -> str:
    return f"![{alt}]({data_uri(fig)})"


def made_by(names: str, what: str = N) -> str:
    return f"*{what}. Made by `python -m experiments.run {names}` (numbers in `experiments/data/`).*"


def table(header: list, rows: list[list]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def per_setting(rows: list[dict]) -> dict:
    """(n_features, setting) -> the numbers of all base models and seeds together."""
    together = {}
    for row in rows:
        setting = f"k = {row['k']}" if "k" in row else f"{row['l1']:g}"
        together.setdefault((row["n_features"], setting), []).append(row)
    return {
        key: {
            **{
                name: np.concatenate([row[name] for row in of_models])
                for name in ("recovered", "l0", "fvu")
            },
            "agreement": np.mean([row["agreement"] for row in of_models]),
            "true_l0": np.mean([row["true_l0"] for row in of_models]),
        }
        for key, of_models in together.items()
    }


def crowded_map() -> str:
    results = per_setting(load("map")["rows"])
    packed = sorted({n for n, _ in results})
    settings = list(dict.fromkeys(setting for _, setting in results))
    groups = {
        "λ of an L1 SAE": [s for s in settings if not s.startswith("k")],
        "k of a TopK SAE": [s for s in settings if s.startswith("k")],
    }
    widths = [len(group) for group in groups.values()]
    fig, axes = plt.subplots(1, 2, figsize=(8, 3), width_ratios=widths)
    alt = "Share of features recovered."
    for ax, (name, group) in zip(axes, groups.items(), strict=True):
        shares = [[results[n, s]["recovered"].mean() / n for s in group] for n in packed]
        plots.plot_map(shares, [s.removeprefix("k = ") for s in group], packed, ax)
        ax.set_xlabel(name)
        for n, row in zip(packed, shares, strict=True):
            cells = ", ".join(f"{s}: {v:.0%}" for s, v in zip(group, row, strict=True))
            alt += f" {n} in 5, {name}: {cells}."
    axes[0].set_ylabel("features in 5")
    axes[1].set_yticks([])
    fig.suptitle("Share of features recovered", x=0.01, ha="left", fontweight="bold")
    header = ["15 in 5", *(f"λ = {s}" for s in groups["λ of an L1 SAE"]), *groups["k of a TopK SAE"]]
    these = [results[15, s] for s in settings]
    rows = [
        ["recovered of 15, mean", *(f"{r['recovered'].mean():.1f}" for r in these)],
        ["all 15, of 48 runs", *((r["recovered"] == 15).sum() for r in these)],
        ["unexplained (FVU)", *(f"{r['fvu'].mean():.1%}" for r in these)],
        [f"L0 (true: {these[0]['true_l0']:.2f})", *(f"{r['l0'].mean():.2f}" for r in these)],
        ["agreement of two seeds", *(f"{r['agreement']:.2f}" for r in these)],
    ]
    return "\n\n".join([picture(fig, alt), table(header, rows), made_by("map")])


def agreement() -> str:
    results = per_setting(load("map")["rows"])
    fig, ax = plt.subplots(figsize=(8, 4.6))
    for (n, setting), r in results.items():
        is_topk = setting.startswith("k")
        colour = {10: plots.BLUE, 15: plots.ORANGE, 20: plots.GREEN}[n]
        marker = {10: "o", 15: "s", 20: "^"}[n]
        share = r["recovered"].mean() / n
        fill = "white" if is_topk else colour
        ax.plot(r["agreement"], share, marker, color=colour, markerfacecolor=fill, markersize=10)
    for n, colour, marker in ((10, plots.BLUE, "o"), (15, plots.ORANGE, "s"), (20, plots.GREEN, "^")):
        ax.plot([], [], marker, color=colour, markersize=10, label=f"{n} in 5")
    ax.plot([], [], "o", color="black", markersize=10, label="L1, one λ each")
    ax.plot([], [], "o", color="black", markerfacecolor="white", markersize=10, label="TopK")
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.06), ylabel="share of features recovered")
    ax.set(xlabel="agreement of two seeds (needs no truth)")
    ax.set_title("Agreement and recovery, a mark for each setting")
    ax.legend(fontsize=11, loc="center left", bbox_to_anchor=(1, 0.5))
    share = {key: r["recovered"].mean() / key[0] for key, r in results.items()}
    fooled = sum(r["agreement"] >= 0.8 and share[key] < 0.6 for key, r in results.items())
    modest = sum(r["agreement"] < 0.9 and share[key] > 0.99 for key, r in results.items())
    alt = (
        f"Scatter plot of {len(results)} settings. {modest} recover over 99 % of the features at an "
        f"agreement below 0.9; {fooled} agree at 0.8 or more and recover less than 60 %."
    )
    return "\n\n".join([picture(fig, alt), made_by("map")])


PAGES: dict[str, Callable[[], str]] = {"map": crowded_map, "agreement": agreement}

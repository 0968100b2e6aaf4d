"""The lesson's generated cells: figures and tables as Markdown, drawn from the stored numbers.

tools/sync_notebook.py writes PAGES[name]() into the cells marked "experiment": name.
"""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np

from experiments.common import load
from sae_lib import plots
from sae_lib.lesson.figures import data_uri

MARKS = {10: (plots.BLUE, "o"), 15: (plots.ORANGE, "s"), 20: (plots.GREEN, "^")}
B_WITH_B = "cos(B's, B)"
N = "16 SAE seeds × 3 base models"


def picture(fig, alt: str) -> str:
    return f"![{alt}]({data_uri(fig)})"


def made_by(names: str, what: str = N) -> str:
    command = f"python -m experiments.run {names}"
    return f"*{what}. Made by `{command}` (numbers in `experiments/data/`).*"


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
    header = ["15 in 5", *(s if s.startswith("k") else f"λ = {s}" for s in settings)]
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
        colour, marker = MARKS[n]
        share = r["recovered"].mean() / n
        fill = "white" if is_topk else colour
        ax.plot(r["agreement"], share, marker, color=colour, markerfacecolor=fill, markersize=10)
    for n in (10, 15, 20):
        ax.plot([], [], MARKS[n][1], color=MARKS[n][0], markersize=10, label=f"{n} in 5")
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
        f"Scatter plot of {len(results)} settings. {modest} recover over 99 % of the features at "
        f"an agreement below 0.9; {fooled} agree at 0.8 or more and recover less than 60 %."
    )
    return "\n\n".join([picture(fig, alt), made_by("map")])


def by(rows: list[dict], *keys: str) -> dict[tuple, dict[str, np.ndarray]]:
    """{the keys' values: {column: the values of all base models and seeds together}}"""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return {
        key: {name: np.concatenate([np.atleast_1d(row[name]) for row in of]) for name in of[0]}
        for key, of in groups.items()
    }


def width() -> str:
    header = [
        "latents",
        "recovered of 10, mean",
        "all ten, of 48 runs",
        "always-on latents",
        "twins",
    ]
    rows = [
        [
            d_sae,
            f"{r['recovered'].mean():.1f}",
            (r["recovered"] == 10).sum(),
            f"{r['always_on'].mean():.1f}",
            f"{r['twins'].mean():.1f}",
        ]
        for (d_sae,), r in by(load("widths")["rows"], "d_sae").items()
    ]
    what = f"{N}, λ = 0.001, 8,000 steps. Always on: fires on nine inputs of ten"
    return table(header, rows) + "\n\n" + made_by("widths", what)


def implied() -> str:
    header = ["setting", "B's latent: cosine with B", "the three base models apart"]
    header += ["A's latent fires where only A is on", "only A and B", "agreement of two seeds"]
    rows_of = [
        r for r in load("implied")["rows"] if (r["values"], r["share with B"]) == ("uniform", 0.5)
    ]
    apart = by(rows_of, "setting", "base_model")
    rows = []
    for (setting,), r in by(rows_of, "setting").items():
        each = [v["cos(B's, B)"].mean() for (name, _), v in apart.items() if name == setting]
        fires = [
            f"{r[name].mean():.0%}" for name in ("A's fires, only A", "A's fires, only A and B")
        ]
        cosine = f"{r[B_WITH_B].mean():.2f}"
        models = ", ".join(f"{value:.2f}" for value in each)
        rows.append([setting, cosine, models, *fires, f"{r['agreement'].mean():.2f}"])
    header_family = ["parent P, children C1, C2, at λ = 0.1", "best cosine with P", "C1", "C2"]
    header_family += ["P + C1", "P + C2"]
    shown = [f"best cos with {name}" for name in ("P", "C1", "C2", "P+C1", "P+C2")]
    family = [
        [f"children {'as strong' if strength == 1 else 'weak (×0.3)'}, {d_sae} latents"]
        + [f"{r[column].mean():.2f}" for column in shown]
        for (strength, d_sae, setting), r in by(
            load("family")["rows"], "children", "d_sae", "setting"
        ).items()
        if setting == "λ = 0.1"
    ]
    tables = [table(header, rows), table(header_family, family)]
    return "\n\n".join([*tables, made_by("implied family")])


def rivals() -> str:
    rows = by(load("rivals")["rows"], "case", "method")
    cases = list(dict.fromkeys(case for case, _ in rows))
    methods = list(dict.fromkeys(kind(method) for _, method in rows))
    cells = {(case, kind(method)): r["recovered"] for (case, method), r in rows.items()}
    lines = [
        [method, *(f"{cells[c, method].mean():.1f}" if (c, method) in cells else "" for c in cases)]
        for method in methods
    ]
    seconds = by(load("encoding")["rows"], "case")
    times = [["SAE", "sae"], ["sparse coding", "lasso, scaled"]]
    lines += [
        [f"*{name}: seconds per million inputs encoded*"]
        + [f"{seconds[(c,)][column].mean():.2g}" for c in cases]
        for name, column in times
    ]
    what = "On 20,000 activations of 3 base models; 16 SAE seeds (4 for 100 in 30), else 2 to 4"
    return table(["recovered, mean", *cases], lines) + "\n\n" + made_by("rivals encoding", what)


def kind(method: str) -> str:
    """The method without the setting that goes with the case."""
    if method.startswith("TopK"):
        return "TopK SAE (k = 1, 1, 5)"
    return "L1 SAE (λ = 0.001, 0.2, 0.1)" if method.startswith("SAE") else method


def codes() -> str:
    rows = by(load("reading")["rows"], "case", "method")
    cases = list(dict.fromkeys(case for case, _ in rows))
    cells = {}
    for (case, method), r in rows.items():
        name = method
        for part in (" λ = 0.001", " λ = 0.2", " λ = 0.1", " k = 1", " k = 5"):
            name = name.replace(part, "")
        cells[case, name] = f"{np.mean(r['f1']):.2f}"
    names = list(dict.fromkeys(name for _, name in cells))
    lines = [[name, *(cells.get((case, name), "") for case in cases)] for name in names]
    what = "Mean F1 of which features are on; 3 base models. Each way at its best threshold"
    return table(["F1", *cases], lines) + "\n\n" + made_by("reading", what)


PAGES: dict[str, Callable[[], str]] = {
    "map": crowded_map,
    "agreement": agreement,
    "width": width,
    "implied": implied,
    "rivals": rivals,
    "codes": codes,
}

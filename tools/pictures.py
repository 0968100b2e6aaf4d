"""The pictures in the lesson's text. None trains: what takes a training is drawn from stored numbers.

    python -m tools.pictures    train again, and write the numbers to tools/pictures.json

The first line of a function's docstring is its picture's alternative text; some add what they
computed.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_lib import (
    SparseAutoencoder,
    ToyModel,
    cosine_similarity_matrix,
    fires,
    fvu,
    l0,
    match_features,
    recovered,
    train_sae,
    train_toy_model,
)
from sae_lib.lesson.exercises import mystery_activations
from sae_lib.lesson.plots import (
    BLUE,
    FEATURES,
    GREY,
    INK,
    LINE,
    ORANGE,
    SOFT,
    arrow,
    down,
    plot_sorted,
    styled,
)

NUMBERS = Path(__file__).with_suffix(".json")
IN_THE_PLANE = 0.999  # 2.6 degrees: in two dimensions 0.99 would often be met by chance


def _stored(name: str):
    return json.loads(NUMBERS.read_text(encoding="utf-8"))[name]


def _bare(ax: Axes, x: tuple, y: tuple, **more) -> None:
    """A diagram's axes: the same unit in x and y, nothing drawn."""
    ax.set(xlim=x, ylim=y, **more)
    ax.set_aspect("equal")
    ax.axis("off")


@styled
def draw_sae() -> Figure:
    """Diagram: 5 activations, 20 latents of which two fire; their two arrows add up to x̂, near x."""
    fig, ax = plt.subplots(figsize=(6.5, 3.7))
    on = {5: (FEATURES[1], (0.62, 1.25)), 13: (FEATURES[2], (1.15, -0.25))}
    for i in range(5):
        ax.plot(0, (2 - i) * 0.55, "o", ms=13, color=BLUE)
    for i in range(20):
        colour = on[i][0] if i in on else "white"
        ax.plot(2.9, (9.5 - i) * 0.19, "o", ms=8, mfc=colour, mec=on[i][0] if i in on else LINE)
    arrow(ax, (0.35, 0), (2.5, 0), INK, 2)
    ax.text(1.42, 0.14, "W_enc, b_enc\nthen ReLU", ha="center", va="bottom", color=SOFT)
    start = np.array([4.6, -0.75])
    for i, (colour, step) in on.items():
        ax.plot([2.98, start[0]], [(9.5 - i) * 0.19, start[1]], color=colour, lw=1, ls=":")
        arrow(ax, start, start + step, colour)
        start = start + step
    x, x_hat = start + (0.28, 0.16), start
    ax.plot(*np.transpose([x, x_hat]), color=INK, lw=1.2, ls=(0, (2, 2)))
    ax.plot(*x, "o", ms=9, color=BLUE)
    ax.plot(*x_hat, "o", ms=9, mfc="white", mec=BLUE, mew=2)
    ax.plot(4.6, -0.75, "o", ms=6, color=GREY)
    ax.text(x[0] + 0.12, x[1] + 0.06, "x", va="center")
    ax.text(x_hat[0] + 0.02, x_hat[1] - 0.2, "x̂", ha="center", va="top")
    ax.text(x[0] - 0.1, x[1] + 0.25, "‖x − x̂‖²", ha="center", weight="bold")
    ax.text(3.25, 1.9, "λ‖h‖₁", va="center", weight="bold")
    for at, text in ((0, "x\n5 activations"), (2.9, "h\n20 latents"), (5.5, "x̂ = h W_dec + b_dec")):
        ax.text(at, -2.05, text, ha="center", va="top")
    _bare(ax, (-0.9, 7.2), (-2.75, 2.1))
    return fig


@styled
def draw_packing() -> Figure:
    """Diagram: four features packed into two neurons; one input, unfolded into a bar a latent."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(6.5, 3.1), width_ratios=(1, 1.15))
    values = (0.8, 0.55, 0.0, 0.0)
    angles = np.deg2rad(25 + 90 * np.arange(4))  # two opposite pairs: the smallest superposition
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    x = values @ directions
    for i, (direction, colour) in enumerate(zip(directions, FEATURES, strict=True)):
        arrow(left, (0, 0), direction, colour)
        left.text(*1.2 * direction, f"f{i}", ha="center", va="center")
        left.plot(*np.transpose([x, values[i] * direction]), ":", color=GREY, lw=1.2 * (i < 2))
        right.barh(i, values[i], color=colour, height=0.5)
        right.plot([0, 0], [i - 0.25, i + 0.25], color=colour, lw=4)
        right.text(-0.08, i, f"latent {i} reads f{i}", ha="right", va="center")
        right.text(values[i] + 0.06, i, f"{values[i]:g}", va="center", color=SOFT)
    arrow(left, (0, 0), x, INK, 2)
    left.text(*1.12 * x, "x", ha="center", va="center", weight="bold")
    left.axhline(0, color=LINE, lw=1, zorder=0)
    left.axvline(0, color=LINE, lw=1, zorder=0)
    left.text(1.5, -0.08, "neuron 0", ha="right", va="top", color=SOFT)
    left.text(0.06, 1.45, "neuron 1", va="top", color=SOFT)
    _bare(left, (-1.35, 1.5), (-1.3, 1.45))
    left.set_title("Packed: each neuron\nanswers to all four")
    right.set(xlim=(-1.3, 1.1), ylim=(3.6, -0.6))
    right.axis("off")
    right.set_title("Unfolded: one latent\nfor each feature")
    return fig


@styled
def draw_price() -> Figure:
    """Diagram: one vector rebuilt by its own direction at a price of 1, or by two for 1.41."""
    fig, axes = plt.subplots(1, 2, figsize=(6.5, 2.4))
    for ax, parts, title in (
        (axes[0], [(1.0, 0.0)], "By its own direction:\nactivity 1"),
        (axes[1], [(0.5, 0.5), (0.5, -0.5)], "By two others, at ±45°:\n0.71 + 0.71 = 1.41"),
    ):
        start = np.zeros(2)
        if len(parts) > 1:
            ax.plot([0, 1], [0, 0], ":", color=GREY, lw=1.2)
        for part in np.array(parts):
            arrow(ax, start, start + part, ORANGE)
            length = f"{np.hypot(*part):.2f}".removesuffix(".00")
            x, y = start + part / 2
            ax.text(x, y + (0.13 if part[1] else 0.05), length, ha="center")
            start = start + part
        ax.plot(0, 0, "o", color=GREY, ms=7)
        ax.plot(1, 0, "o", color=BLUE, ms=10)
        ax.text(1.07, 0, "x", va="center", weight="bold")
        _bare(ax, (-0.08, 1.2), (-0.1, 0.62), title=title)
    return fig


@styled
def draw_leak() -> tuple[Figure, str]:
    """Diagram: what a latent reads of four features when one at a time is on."""
    cosine = _stored("leak")
    reads = {"its own": 1.0, "at a right angle": 0.0, "the opposite": -1.0, "a neighbour": cosine}
    fig, (left, right) = plt.subplots(1, 2, figsize=(6.5, 2.8), width_ratios=(1, 1.25))
    own, near = FEATURES[0], FEATURES[3]
    tip = np.array([cosine, np.sqrt(1 - cosine**2)])
    left.plot([cosine, cosine], [0, tip[1]], color=GREY, lw=1.2, ls=":")
    arrow(left, (0, 0), (1, 0), own)
    arrow(left, (0, 0), tip, near)
    left.plot([0, cosine], [0, 0], color=near, lw=7, solid_capstyle="butt")
    left.text(1.04, 0, "the latent's\nown feature", va="center")
    left.text(tip[0] + 0.05, tip[1], "a neighbour", va="center")
    left.text(cosine / 2, -0.07, down(cosine), ha="center", va="top", weight="bold")
    _bare(left, (-0.1, 1.75), (-0.2, 1.15))
    for row, (name, value) in enumerate(reads.items()):
        colour = near if name == "a neighbour" else own
        right.barh(row, max(value, 0), color=colour, height=0.5)
        right.text(-0.05, row, name, ha="right", va="center")
        text = f"{value:.2f}".removesuffix(".00") if value >= 0 else "0, thanks to the ReLU"
        right.text(max(value, 0) + 0.04, row, text, va="center", color=SOFT)
    right.plot([0, 0], [-0.4, 3.4], color=LINE, lw=1)
    right.set(xlim=(-1.0, 1.25), ylim=(3.6, -0.6))
    right.axis("off")
    right.set_title("What the latent reads of it", x=0)
    said = "; ".join(f"{name}: {max(value, 0):.2f}" for name, value in reads.items())
    return fig, f"{draw_leak.__doc__} {said}."


@styled
def draw_film() -> tuple[Figure, str]:
    """Four features in two neurons, and the eight latents of one SAE, at four moments of training."""
    stored = _stored("film")
    truth, dots = np.array(stored["truth"]), np.array(stored["dots"])
    fig, axes = plt.subplots(1, 4, figsize=(6.5, 2.5))
    said = []
    for ax, frame in zip(axes, stored["frames"], strict=True):
        W_dec = np.array(frame["W_dec"])
        cosines = cosine_similarity_matrix(torch.tensor(W_dec), torch.tensor(truth)).numpy()
        found = match_features(torch.tensor(cosines)).cosine >= IN_THE_PLANE
        ax.scatter(*dots.T, s=3, color="#8d97a0", alpha=0.5, linewidths=0)
        for direction, colour in zip(truth, FEATURES, strict=True):
            band = {"color": colour, "lw": 8, "alpha": 0.22, "solid_capstyle": "round"}
            ax.plot(*np.transpose([0 * direction, 1.1 * direction]), **band)
        for row, alive, to in zip(W_dec, frame["alive"], cosines, strict=True):
            hit = to.max() >= IN_THE_PLANE
            colour = FEATURES[to.argmax()] if hit else INK if alive else LINE
            look = {"color": colour, "lw": 2.6 if hit else 1.3, "zorder": 2 + alive + hit}
            ax.plot([0, row[0]], [0, row[1]], "-", **look)
            ax.plot(*row, "o", ms=7 if hit else 5, **look)
        for j, colour in enumerate(FEATURES):
            face = colour if found[j] else "white"
            ax.plot(-1.05 + 0.28 * j, -1.62, "o", ms=8, mec=colour, mfc=face, mew=1.5)
        ax.text(0.12, -1.62, f"{found.sum()} of 4", va="center_baseline")
        _bare(ax, (-1.25, 1.25), (-1.8, 1.2))
        ax.set_title(frame["name"], fontweight="normal")
        said.append(f"{' '.join(frame['name'].split())}: {found.sum()} of 4 found")
    return fig, f"{draw_film.__doc__} {'; '.join(said)}."


@styled
def draw_first_minute() -> tuple[Figure, str]:
    """Sorted cosines of 20 latents with ten features, faded where nothing is found."""
    stored, said = _stored("first_minute"), []
    truth = torch.tensor(stored["truth"])
    fig, axes = plt.subplots(1, 3, figsize=(6.5, 4.2))
    for ax, frame in zip(axes, stored["frames"], strict=True):
        W_dec = torch.tensor(frame["W_dec"])
        plot_sorted(cosine_similarity_matrix(W_dec, truth), ax=ax, numbers=2)  # no room for them
        numbers = f"error {frame['unexplained']:.1%}, L0 {frame['l0']:.1f}"
        ax.set_title(f"{frame['name']}\n", fontweight="bold")
        ax.text(0, 1.02, numbers, transform=ax.transAxes, size=11, color=SOFT)
        ax.set(xticks=[], yticks=[], xlabel="", ylabel="20 latents" if ax is axes[0] else "")
        found = recovered(W_dec, truth)
        ax.text(
            0.5,
            -0.04,
            found,
            transform=ax.transAxes,
            size=34,
            ha="center",
            va="top",
            weight="bold" if found else "normal",
            color=INK if found else GREY,
        )
        ax.text(
            0.5,
            -0.21,
            f"of {len(truth)} features found",
            transform=ax.transAxes,
            ha="center",
            va="top",
            color=SOFT,
        )
        said.append(f"{frame['name']}: {numbers}, {found} found")
    return fig, f"{draw_first_minute.__doc__} {'; '.join(said)}."


class WrongAxis(SparseAutoencoder):
    """Columns of W_dec set to length 1, in place of rows."""

    @torch.no_grad()
    def normalize_decoder_(self) -> None:
        self.W_dec /= self.W_dec.norm(dim=0, keepdim=True)


def broken_runs() -> dict[str, dict[str, np.ndarray]]:
    """A healthy run and the faulty A to D: step, error, l0 and norm of each, (n_logged,).

    Which is which, `mark_diagnosis` knows.
    """

    def run(autoencoder: type = SparseAutoencoder, price: float = 0.15, **settings) -> dict:
        settings = {"l1_coefficient": price, "n_steps": 800, "n_logged": 40, **settings}
        history = train_sae(autoencoder(5, 32), mystery_activations(), **settings)
        norms = torch.stack(history.W_dec).norm(dim=-1).mean(dim=-1)
        curves = {"step": history.step, "error": history.reconstruction, "l0": history.l0}
        return {k: torch.as_tensor(v).numpy() for k, v in {**curves, "norm": norms}.items()}

    healthy = run()
    return {
        "healthy": healthy,
        "A": run(normalize_decoder=False),
        "B": {name: curve[healthy["step"] <= 60] for name, curve in healthy.items()},
        "C": run(WrongAxis),
        "D": run(price=0.001),
    }


@styled
def plot_broken_runs(runs: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Error, L0 and decoder norm of the faulty runs, a column each; the healthy one dotted."""
    runs = {name: {k: np.asarray(v) for k, v in run.items()} for name, run in runs.items()}
    healthy = runs["healthy"]
    faulty = {name: run for name, run in runs.items() if name != "healthy"}
    look = {"sharex": True, "sharey": "row", "squeeze": False}
    fig, axes = plt.subplots(3, len(faulty), figsize=(6.5, 5.2), **look)
    for column, (name, run) in zip(axes.T, faulty.items(), strict=True):
        column[0].set_title(f"Run {name}")
        for ax, curve in zip(column, ("error", "l0", "norm"), strict=True):
            for shown, dash, colour in ((healthy, ":", GREY), (run, "-", BLUE)):
                ax.plot(shown["step"] + 1, shown[curve], dash, color=colour)
            ax.plot(run["step"][-1] + 1, run[curve][-1], "o", color=BLUE, markersize=5)
            ax.set(xscale="log", xticks=(1, 1000))
            ax.xaxis.set_major_formatter("{x:,.0f}")
    axes[0, 0].set(ylabel="error (log)", yscale="log")
    axes[1, 0].set(ylabel="L0 (log)", yscale="log")
    axes[2, 0].set(ylabel="decoder norm", ylim=(0, None))
    for ax, ticks in ((axes[1, 0], (1, 3, 10)), (axes[2, 0], (0, 1, 2, 3))):
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
    fig.supxlabel("training batch (log); dotted: a healthy run", fontsize=12, color=SOFT)
    fig.align_ylabels()
    return fig


def draw_broken_runs() -> tuple[Figure, str]:
    """Error, L0 and decoder norm over the batches of four faulty runs, beside a healthy one."""
    runs = _stored("broken_runs")
    ends = [
        f"{name} ends at batch {run['step'][-1] + 1}: error {run['error'][-1]:.1g}, "
        f"L0 {run['l0'][-1]:.0f}, decoder norm {run['norm'][-1]:.1f}."
        for name, run in runs.items()
    ]
    return plot_broken_runs(runs), " ".join([draw_broken_runs.__doc__, *ends])


# --- the numbers ----------------------------------------------------------------------------


def _trained(n_features: int, n_hidden: int, sparsity: float = 0.9) -> tuple:
    """A toy model's directions, and activations that it makes."""
    model = ToyModel(n_features, n_hidden, sparsity)
    train_toy_model(model)
    return model.feature_directions, model.encode(model.sample_features(50_000, seed=1)).detach()


@torch.no_grad()
def _still(name: str, sae: SparseAutoencoder, x: torch.Tensor) -> dict:
    """What a picture needs of an SAE as it is now."""
    x_hat, h = sae(x)
    numbers = {"unexplained": fvu(x, x_hat), "l0": l0(h), "alive": fires(h).any(dim=0).int()}
    return {"name": name, "W_dec": sae.W_dec.clone(), **numbers}


def film() -> dict:
    """The plane: eight latents before training, after 1,000 batches without a price, with it on.

    "For a moment" is the first batch with half of the features found.
    """
    truth, x = _trained(4, 2)
    sae = SparseAutoencoder(2, 8, seed=1)
    frames = [_still("start", sae, x)]
    train_sae(sae, x, l1_coefficient=0.0, n_steps=1_000, seed=1)
    frames.append(_still("price off:\nno error", sae, x))
    history = train_sae(sae, x, l1_coefficient=0.02, n_steps=1_000, seed=1, n_logged=1_000)
    found = [recovered(W_dec, truth, IN_THE_PLANE) for W_dec in history.W_dec]
    half = next(i for i, n in enumerate(found) if n >= 2)
    last = _still("price on:\nfound", sae, x)
    sae.W_dec.data = history.W_dec[half]
    name = f"price on,\n{history.step[half] + 1} batches"
    frames += [_still(name, sae, x), last]
    return {"truth": truth, "dots": x[:500], "frames": frames}


def first_minute() -> dict:
    """One SAE before training, trained without a price on activity, and trained on with one."""
    truth, x = _trained(10, 5)
    sae = SparseAutoencoder(5, 20, seed=1)
    frames = [_still("before", sae, x)]
    for name, price, n_steps in (("price off", 0.0, 3_000), ("price on", 0.01, 1_000)):
        train_sae(sae, x, l1_coefficient=price, n_steps=n_steps, seed=1)
        frames.append(_still(name, sae, x))
    return {"truth": truth, "frames": frames}


def leak() -> float:
    """The largest cosine between two of 15 features in five neurons, on in every twentieth input."""
    truth, _ = _trained(15, 5, 0.95)
    return (cosine_similarity_matrix(truth, truth) - torch.eye(15)).max().item()


def _plain(value):
    """Lists, and numbers of four digits, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (torch.Tensor, np.ndarray)):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    torch.set_num_threads(1)
    numbers = {made.__name__: _plain(made()) for made in (film, first_minute, leak, broken_runs)}
    lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in numbers.items())
    NUMBERS.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")

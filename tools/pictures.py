"""The pictures in the lesson's text: three diagrams, and three that take a training."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_lib import (
    FALLING_PRICE,
    SparseAutoencoder,
    ToyModel,
    cosine_similarity_matrix,
    fvu,
    l0,
    match_features,
    plots,
    recovered,
    train_sae,
    train_toy_model,
)
from sae_lib.lesson.exercises import mystery_activations
from sae_lib.lesson.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, plot_sorted, styled


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    look = {"arrowstyle": "-|>", "color": colour, "lw": 3, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=look)


@styled
def draw_sae() -> Figure:
    """Diagram of the sparse autoencoder: 5 activations, a wide layer of latents, 5 rebuilt ones."""
    fig, ax = plt.subplots(figsize=(6, 3.6))
    on, low = {2, 11}, -1.75
    for x, n, colour, text in (
        (0, 5, BLUE, "x\n5 activations\n(batch, 5)"),
        (4, 20, GREEN, "h\n20 latents, two on\n(batch, 20)"),
        (8, 5, BLUE, "x̂\n5 rebuilt\n(batch, 5)"),
    ):
        for i in range(n):
            face = colour if n == 5 or i in on else "white"
            y = (i - (n - 1) / 2) * 0.16
            ax.plot(x, y, "o", markersize=9, color=colour, markerfacecolor=face)
        ax.text(x, low, text, ha="center", va="top")
    for x, text in ((0.4, "W_enc, b_enc\nthen ReLU"), (4.4, "W_dec, b_dec")):
        _arrow(ax, (x, 0), (x + 3.2, 0), "black")
        ax.text(x + 1.6, 0.15, text, ha="center", va="bottom")
    ax.set(xlim=(-1.4, 9.4), ylim=(low - 1, 1.75))
    ax.axis("off")
    return fig


@styled
def draw_packing() -> Figure:
    """Diagram: four features packed into two neurons, and unfolded into a latent for each."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(6, 3.2), width_ratios=(1, 1.15))
    for i, colour in enumerate((BLUE, ORANGE, GREEN, PURPLE)):
        angle = np.deg2rad(25 + 90 * i)  # two opposite pairs: the smallest superposition
        x, y = np.cos(angle), np.sin(angle)
        _arrow(left, (0, 0), (x, y), colour)
        left.text(1.22 * x, 1.22 * y, f"f{i}", ha="center", va="center", fontsize=13)
        right.barh(i, 0.5 if i == 1 else 0.0, left=0.1, color=colour, height=0.35)
        right.plot(0, i, "o", color=colour, markersize=9)
        right.text(-0.08, i, f"latent {i} reads f{i}", ha="right", va="center")
    left.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal", xticks=[], yticks=[])
    left.spines[["left", "bottom"]].set_position("zero")
    left.text(1.5, -0.08, "neuron 0", ha="right", va="top")
    left.text(0.06, 1.5, "neuron 1", va="top")
    left.set_title("Packed: each neuron\nanswers to all four")
    right.set(xlim=(-1.3, 0.9), ylim=(3.6, -0.6), xticks=[], yticks=[])
    right.spines[["left", "bottom"]].set_visible(False)
    right.text(0.66, 1, "on", va="center")
    right.set_title("Unfolded: one latent\nper feature, most are off")
    return fig


@styled
def draw_price() -> Figure:
    """Diagram: one vector rebuilt by its own direction at a price of 1, or by two for 1.41."""
    fig, axes = plt.subplots(1, 2, figsize=(6, 2.4))
    for ax, parts, title in (
        (axes[0], [(1.0, 0.0)], "By its own direction:\nactivity 1"),
        (axes[1], [(0.5, 0.5), (0.5, -0.5)], "By two others, at ±45°:\n0.71 + 0.71 = 1.41"),
    ):
        x, y = 0.0, 0.0
        for dx, dy in parts:
            _arrow(ax, (x, y), (x + dx, y + dy), ORANGE)
            length = f"{np.hypot(dx, dy):.2f}".removesuffix(".00")
            ax.text(
                x + dx / 2, y + dy / 2 + (0.15 if dy else 0.06), length, ha="center", fontsize=13
            )
            x, y = x + dx, y + dy
        ax.plot(0, 0, "o", color=GREY, markersize=6)
        ax.plot(1, 0, "o", color=BLUE, markersize=10)
        ax.text(1.08, 0, "x", color=BLUE, va="center", fontsize=14)
        ax.set(xlim=(-0.1, 1.25), ylim=(-0.1, 0.65), aspect="equal", title=title)
        ax.axis("off")
    return fig


@styled
def draw_strip(states: Mapping[str, tuple], feature_directions) -> Figure:
    """Stills of one training: {name: (W_dec, error, L0)}, such as before, price off, price on.

    W_dec (d_sae, d_in), feature_directions (n_features, d_in). Each heatmap is sorted by itself.
    """
    fig, axes = plt.subplots(1, len(states), figsize=(6.5, 3.6))
    for ax, (name, (W_dec, error, L0)) in zip(axes, states.items(), strict=True):
        cosines = cosine_similarity_matrix(W_dec, feature_directions)
        plot_sorted(cosines, ax=ax, numbers=2)  # no room for numbers
        found = ax.get_title("left")
        ax.set_title(f"{name}\nerror {error:.1%}, L0 {L0:.1f}\n{found}")
        ax.set(xticks=[], yticks=[], xlabel="features", ylabel="latents" if ax is axes[0] else "")
    return fig


def _base_model() -> tuple[ToyModel, torch.Tensor]:
    base = ToyModel()
    train_toy_model(base)
    return base, base.encode(base.sample_features(50_000, seed=1)).detach()


def draw_first_minute() -> tuple[Figure, str]:
    """One SAE before training, trained without a price on activity, and trained on with one."""
    base, pool = _base_model()
    truth, sae = base.feature_directions, SparseAutoencoder(5, 20, seed=1)
    states, said = {}, "Sorted cosines of 20 latents with ten features: an SAE"
    for name, settings in {
        "before": {},
        "price off": {"l1_coefficient": 0.0, "n_steps": 3_000},
        "price on": {"l1_coefficient": 0.01, "n_steps": 1_000},
    }.items():
        if settings:
            train_sae(sae, pool, seed=1, **settings)
        with torch.no_grad():
            x_hat, latent_acts = sae(pool)
        L0, found = l0(latent_acts), recovered(sae.W_dec, truth)
        states[name] = (sae.W_dec.detach().clone(), fvu(pool, x_hat), L0)
        said += f"; {name}: {fvu(pool, x_hat):.1%} unexplained, L0 {L0:.1f}, {found} of 10 found"
    return draw_strip(states, truth), f"{said}."


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
    healthy = runs["healthy"]
    faulty = {name: run for name, run in runs.items() if name != "healthy"}
    fig, axes = plt.subplots(
        3, len(faulty), figsize=(6, 5.6), sharex=True, sharey="row", squeeze=False
    )
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
    fig.supxlabel("training step (log); dotted: a healthy run", fontsize=12)
    return fig


def draw_broken_runs() -> tuple[Figure, str]:
    """The picture of the exercise, and where each curve ends."""
    runs = broken_runs()
    ends = [
        f"{name} ends at step {run['step'][-1] + 1}: error {run['error'][-1]:.1g}, "
        f"L0 {run['l0'][-1]:.0f}, decoder norm {run['norm'][-1]:.1f}."
        for name, run in runs.items()
    ]
    what = "Error, L0 and decoder norm against the training step."
    return plot_broken_runs(runs), " ".join([what, *ends])


def draw_at_a_glance() -> Figure:
    """The README's picture: what the neurons show, and what the SAE's latents show."""
    base, pool = _base_model()
    sae = SparseAutoencoder(5, 20, seed=1)
    train_sae(sae, pool, seed=1, **FALLING_PRICE)
    cosines = cosine_similarity_matrix(sae.W_dec, base.feature_directions)
    own = match_features(cosines).latent
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    plots.plot_matrix(base.W.detach(), left, numbers=0.15)
    left.set(ylabel="neuron", xlabel="feature", title="5 neurons: many features each")
    plots.plot_matrix(cosines[own], right, yticks=own, numbers=0.8)
    right.set(ylabel="latent", xlabel="feature", title="10 latents: one feature each")
    return fig

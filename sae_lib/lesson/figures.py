"""The lesson's own figures: how they are shown, the slider, and its diagrams."""

import base64
import html
import io
import json
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from PIL import Image

from sae_lib.plots import BLUE, GREEN, GREY, ORANGE, PURPLE


def png(fig: Figure, dpi: int = 100) -> bytes:
    """The figure as a PNG with a palette of its own: a third of the usual size."""
    raw, small = io.BytesIO(), io.BytesIO()
    fig.savefig(raw, format="png", facecolor="white", dpi=dpi)
    plt.close(fig)
    picture = Image.open(raw).convert("RGB")
    # the median cut, which is the default, would grey the rare colours of a colour bar
    how = {"method": Image.Quantize.MAXCOVERAGE, "dither": Image.Dither.NONE}
    picture = picture.quantize(128, **how)
    picture.save(small, format="png", optimize=True)
    return small.getvalue()


def data_uri(fig: Figure, dpi: int = 100) -> str:
    """The figure as an address that holds the picture itself. Closes the figure."""
    return "data:image/png;base64," + base64.b64encode(png(fig, dpi)).decode()


class _WithText(HTML):
    """HTML whose plain-text form is the description, for readers without pictures."""

    def __init__(self, data: str, text: str):
        super().__init__(data)
        self.text = text

    def __repr__(self) -> str:
        return self.text


def show(fig: Figure | Axes, alt: str) -> None:
    """Display a figure with an alternative text (which front ends drop from plain PNGs)."""
    fig = fig.figure if isinstance(fig, Axes) else fig
    style = "max-width:100%;max-height:90vh"
    picture = f'<img alt="{html.escape(alt)}" style="{style}" src="{data_uri(fig)}">'
    display(_WithText(picture, f"[figure] {alt}"))


def player(figures: Sequence[Figure], alts: Sequence[str], label: str, start: int = 0) -> None:
    """Display figures behind a slider, frame `start` first.

    Everything is in the output itself: no widget, no network, no state in the file. The frames
    lie as text in a script that never runs, so that a viewer which removes scripts shows one
    still picture, with its description, and not all of them one below the other.
    """
    pictures = [data_uri(fig, dpi=80) for fig in figures]  # many, so smaller
    frames = [{"src": src, "alt": alt} for src, alt in zip(pictures, alts, strict=True)]
    flip = (
        "const player = this.closest('.sae-player');"
        "const frames = JSON.parse(player.querySelector('script').textContent);"
        "Object.assign(player.querySelector('img'), frames[this.value]);"
    )
    still = (
        f'<img alt="{html.escape(alts[start])}" style="max-width:100%;max-height:80vh" '
        f'src="{frames[start]["src"]}">'
    )
    slider = (
        f'<label>{html.escape(label)} <input type="range" min="0" max="{len(frames) - 1}" '
        f'value="{start}" style="width:60%;vertical-align:middle" oninput="{flip}"></label>'
    )
    data = json.dumps(frames).replace("</", "<\\/")
    page = f'<script type="application/json">{data}</script>{still}<br>{slider}'
    text = f"[slider: {label}] {alts[start]}"
    display(_WithText(f'<div class="sae-player">{page}</div>', text))


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], text: str = ""):
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=16, color="black"))
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.12)
    ax.text(*middle, text, ha="center", va="bottom", fontsize=11)


def draw_sae(d_in: int = 5, d_sae: int = 20) -> Figure:
    """Diagram of the sparse autoencoder: 5 activations, a wide layer of latents, 5 rebuilt ones."""
    fig, ax = plt.subplots(figsize=(8, 3.4))
    on = {2, 11}
    for x, n, colour in ((0.5, d_in, BLUE), (4.0, d_sae, GREEN), (7.5, d_in, BLUE)):
        for i in range(n):
            y = (i - (n - 1) / 2) * 0.16
            filled = n == d_in or i in on
            ax.plot(
                x, y, "o", markersize=9, color=colour, markerfacecolor=colour if filled else "white"
            )
    for text, start, end in (
        ("W_enc, b_enc\nthen ReLU", 0.8, 3.7),
        ("W_dec, b_dec", 4.3, 7.2),
    ):
        _arrow(ax, (start, 0), (end, 0), text)
    low = -0.16 * d_sae / 2 - 0.1
    for x, text in (
        (0.5, f"x: {d_in} activations\n(batch, {d_in})"),
        (4.0, f"h: {d_sae} latents, two of them on\n(batch, {d_sae})"),
        (7.5, f"x̂: {d_in} rebuilt\n(batch, {d_in})"),
    ):
        ax.text(x, low, text, ha="center", va="top", fontsize=12)
    ax.set(xlim=(-0.4, 8.4), ylim=(low - 0.7, 1.75))
    ax.axis("off")
    return fig


# Four features in two neurons, two opposite pairs at right angles: the smallest superposition.
FOUR_ANGLES = np.deg2rad(25) + np.arange(4) * np.pi / 2
FOUR_DIRECTIONS = np.stack([np.cos(FOUR_ANGLES), np.sin(FOUR_ANGLES)], axis=1)  # (4, 2)
FOUR_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)


def _plane(ax: Axes) -> None:
    """Two neurons as axes, and the four features as arrows from the origin."""
    for i, ((x, y), colour) in enumerate(zip(FOUR_DIRECTIONS, FOUR_COLOURS, strict=True)):
        arrow = {"arrowstyle": "-|>", "color": colour, "lw": 3, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", (x, y), (0, 0), arrowprops=arrow)
        ax.text(1.22 * x, 1.22 * y, f"f{i}", ha="center", va="center", fontsize=13)
    ax.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal", xticks=[], yticks=[])
    ax.spines[["left", "bottom"]].set_position("zero")
    ax.text(1.5, -0.08, "neuron 0", ha="right", va="top", fontsize=11)
    ax.text(0.06, 1.5, "neuron 1", va="top", fontsize=11)


def draw_packing() -> Figure:
    """Diagram: four features packed into two neurons, and unfolded into a latent for each."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), width_ratios=(1, 1.25))
    _plane(left)
    left.set_title("Packed: each neuron\nanswers to all four")
    for i, colour in enumerate(FOUR_COLOURS):
        right.barh(i, 0.75 if i == 1 else 0.0, color=colour, height=0.5)
        right.plot(0, i, "o", color=colour, markersize=9)
        right.text(-0.06, i, f"latent {i} reads f{i}", ha="right", va="center", fontsize=12)
    right.set(xlim=(-0.95, 1), ylim=(3.6, -0.6), xticks=[], yticks=[])
    right.spines[["left", "bottom"]].set_visible(False)
    right.text(0.79, 1, "on", va="center", fontsize=12)
    right.set_title("Unfolded: one latent\na feature, most of them off")
    return fig


def draw_race(history, frame: int, loss_limits: tuple[float, float]) -> Figure:
    """One moment of an SAE's training on four features in two neurons.

    history: of `train_sae` with d_in = 2. Left, the plane with the features and the latents'
    directions, faint where a latent has stopped firing; right, error and L0 up to this moment.
    """
    with plt.rc_context({"figure.constrained_layout.use": False}):  # margins by hand: faster
        fig, axes = plt.subplot_mosaic([["plane", "error"], ["plane", "L0"]], figsize=(8, 3.8))
    fig.subplots_adjust(left=0.02, right=0.98, bottom=0.16, top=0.88, wspace=0.25, hspace=0.15)
    _plane(axes["plane"])
    for (x, y), rate in zip(
        history.W_dec[frame].tolist(), history.rate[frame].tolist(), strict=True
    ):
        axes["plane"].plot(
            (0.0, x), (0.0, y), "-o", color="black", lw=1.4, markersize=7,
            markerfacecolor="black" if rate > 0 else "white", alpha=0.85 if rate > 0 else 0.3,
        )  # fmt: skip
    batch = history.step.numpy() + 1
    for name, curve in (("error", history.reconstruction.numpy()), ("L0", history.l0.numpy())):
        ax = axes[name]
        ax.plot(batch, curve, color=GREY, lw=1)
        ax.plot(batch[: frame + 1], curve[: frame + 1], color=BLUE)
        ax.plot(batch[frame], curve[frame], "o", color=BLUE)
        ax.set(xscale="log", ylabel=name)
    axes["error"].set(yscale="log", ylim=loss_limits, xticklabels=[])
    axes["L0"].set(ylim=(0, None), xlabel="training batch (log scale)")
    return fig


def draw_price() -> Figure:
    """Diagram: one vector rebuilt by its own direction at a price of 1, or by two for 1.41."""
    fig, axes = plt.subplots(1, 2, figsize=(8, 3.4))
    for ax, parts, title in (
        (axes[0], [(1.0, 0.0)], "By its own direction:\nactivity 1"),
        (
            axes[1],
            [(0.5, 0.5), (0.5, -0.5)],
            "By two others, at ±45°:\nactivity 0.71 + 0.71 = 1.41",
        ),
    ):
        x, y = 0.0, 0.0
        for dx, dy in parts:
            arrow = {"arrowstyle": "-|>", "color": ORANGE, "lw": 3}
            ax.annotate("", (x + dx, y + dy), (x, y), arrowprops=arrow)
            length = f"{np.hypot(dx, dy):.2f}".rstrip("0").rstrip(".")
            ax.text(x + dx / 2, y + dy / 2 + 0.1, length, ha="center", fontsize=13)
            x, y = x + dx, y + dy
        ax.plot(1, 0, "o", color=BLUE, markersize=10)
        ax.text(1.06, 0, "x", color=BLUE, va="center", fontsize=14)
        ax.set(xlim=(-0.1, 1.25), ylim=(-0.3, 0.8), aspect="equal", title=title)
        ax.axis("off")
    return fig

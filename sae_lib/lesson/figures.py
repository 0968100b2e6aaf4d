"""The lesson's own figures: how they are shown, the slider, and its diagrams."""

import base64
import html
import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from PIL import Image

from sae_lib.plots import BLUE, GREEN, ORANGE, PURPLE


def _png(fig: Figure) -> bytes:
    """The figure as a PNG with a palette of its own: a third of the usual size."""
    raw, small = io.BytesIO(), io.BytesIO()
    fig.savefig(raw, format="png", facecolor="white")
    plt.close(fig)
    picture = Image.open(raw).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(small, format="png", optimize=True)
    return small.getvalue()


def data_uri(fig: Figure) -> str:
    """The figure as an address that holds the picture itself. Closes the figure."""
    return "data:image/png;base64," + base64.b64encode(_png(fig)).decode()


def _img(fig: Figure, alt: str, style: str = "") -> str:
    style = f"max-width:100%;max-height:90vh;{style}"
    return f'<img alt="{html.escape(alt)}" style="{style}" src="{data_uri(fig)}">'


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
    display(_WithText(_img(fig, alt), f"[figure] {alt}"))


def player(figures: Sequence[Figure], alts: Sequence[str], label: str, start: int = 0) -> None:
    """Display figures behind a slider. Where scripts do not run, frame `start` stays as a still.

    Everything is in the output itself: no widget, no network, no state in the file.
    """
    frames = "".join(
        _img(fig, alt, "" if i == start else "display:none;")
        for i, (fig, alt) in enumerate(zip(figures, alts, strict=True))
    )
    flip = (
        "[...this.closest('div').querySelectorAll('img')]"
        ".forEach((frame, i) => frame.style.display = i == this.value ? '' : 'none')"
    )
    slider = (
        f'<label>{html.escape(label)} <input type="range" min="0" max="{len(alts) - 1}" '
        f'value="{start}" style="width:60%;vertical-align:middle" oninput="{flip}"></label>'
    )
    text = f"[slider: {label}] {alts[start]}"
    display(_WithText(f'<div class="sae-player">{slider}<br>{frames}</div>', text))


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


def draw_packing() -> Figure:
    """Diagram: four features packed into two neurons, and unfolded into a latent for each."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), width_ratios=(1, 1.25))
    colours = (BLUE, ORANGE, GREEN, PURPLE)
    angle = np.deg2rad(25)
    for i, colour in enumerate(colours):
        x, y = np.cos(angle + i * np.pi / 2), np.sin(angle + i * np.pi / 2)
        left.annotate(
            "", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 3}
        )
        left.text(1.2 * x, 1.2 * y, f"f{i}", ha="center", va="center", fontsize=13)
    left.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal", xticks=[], yticks=[])
    left.spines[["left", "bottom"]].set_position("zero")
    left.text(1.5, -0.12, "neuron 0", ha="right", va="top", fontsize=11)
    left.text(0.08, 1.5, "neuron 1", va="top", fontsize=11)
    left.set_title("Packed: each neuron\nanswers to all four")
    for i, colour in enumerate(colours):
        right.barh(i, 0.75 if i == 1 else 0.0, color=colour, height=0.5)
        right.plot(0, i, "o", color=colour, markersize=9)
        right.text(-0.06, i, f"latent {i} reads f{i}", ha="right", va="center", fontsize=12)
    right.set(xlim=(-0.95, 1), ylim=(3.6, -0.6), xticks=[], yticks=[])
    right.spines[["left", "bottom"]].set_visible(False)
    right.text(0.79, 1, "on", va="center", fontsize=12)
    right.set_title("Unfolded: one latent\na feature, most of them off")
    return fig

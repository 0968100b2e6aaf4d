"""How the lesson shows a figure: a sharp PNG of a stated width, with an alternative text."""

import base64
import io

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from sae_lib.lesson.plots import styled

DPI = 100  # an inch of a figure is shown 100 pixels wide ...
DENSITY = 2  # ... and drawn with twice as many, for dense screens


@styled  # ticks are made only now
def png(fig: Figure) -> tuple[bytes, int]:
    """A figure as a PNG, and the width at which to show it. Closes the figure.

    The PNG has a palette of its own: a third of the usual size.
    """
    raw, small = io.BytesIO(), io.BytesIO()
    fig.savefig(raw, format="png", facecolor="white", dpi=DENSITY * DPI)
    plt.close(fig)
    picture = Image.open(raw).convert("RGB")
    # the median cut, which is the default, would grey the rare colours
    how = {"method": Image.Quantize.MAXCOVERAGE, "dither": Image.Dither.NONE}
    picture.quantize(255, **how).save(small, format="png", optimize=True)
    return small.getvalue(), picture.width // DENSITY


def show(fig: Figure | Axes, what: str) -> None:
    """Display a figure as a PNG with an alternative text: what it is, and what its titles say.

    The plain text beside it leaves the titles out: a training ends a little differently on another
    processor, and the text is what a test of the notebook compares.
    """
    fig = fig.figure if isinstance(fig, Axes) else fig
    titles = [fig.get_suptitle(), *(ax.get_title("left") for ax in fig.axes)]
    said = "; ".join(" ".join(title.split()) for title in titles if title)
    data, width = png(fig)
    shown = {"image/png": base64.b64encode(data).decode(), "text/plain": f"[figure] {what}"}
    metadata = {"image/png": {"alt": f"{what} {said}".strip(), "width": width}}
    display(shown, metadata=metadata, raw=True)

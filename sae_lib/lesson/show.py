"""How the lesson's figures are shown, and its playground."""

import base64
import html
import io
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from sae_lib.lesson.plots import styled

PLAYGROUND = Path(__file__).with_name("playground.html")


@styled  # ticks are made only now
def png(fig: Figure) -> bytes:
    """The figure as a PNG with a palette of its own: a third of the usual size. Closes it."""
    raw, small = io.BytesIO(), io.BytesIO()
    fig.savefig(raw, format="png", facecolor="white", dpi=100)
    plt.close(fig)
    picture = Image.open(raw).convert("RGB")
    # the median cut, which is the default, would grey the rare colours
    how = {"method": Image.Quantize.MAXCOVERAGE, "dither": Image.Dither.NONE}
    picture.quantize(128, **how).save(small, format="png", optimize=True)
    return small.getvalue()


def show(fig: Figure | Axes, what: str) -> None:
    """Display a figure as a PNG with an alternative text: what it is, and what its titles say.

    The plain text beside it leaves the titles out: a training ends a little differently on another
    processor, and the text is what a test of the notebook compares.
    """
    fig = fig.figure if isinstance(fig, Axes) else fig
    titles = [fig.get_suptitle(), *(ax.get_title("left") for ax in fig.axes)]
    said = "; ".join(" ".join(title.split()) for title in titles if title)
    alt = f"{what} {said}".strip()
    data = {"image/png": base64.b64encode(png(fig)).decode(), "text/plain": f"[figure] {what}"}
    display(data, metadata={"image/png": {"alt": alt}}, raw=True)


def show_playground() -> None:
    """Display the page that trains an SAE, in a frame of its own, so that its style stays there.

    It takes the height that it needs, and 760 px where it may not be asked for that. It hands the
    wheel on, as VS Code, which scrolls by itself, does not hear of it in a frame.
    Where scripts may not run, the frame is removed. nbconvert's sanitiser turns it into text
    instead: the classes, known to its pages, hide that, and the style, which the sanitiser
    takes away, shows the frame everywhere else.
    """
    page = html.escape(PLAYGROUND.read_text(encoding="utf-8"))
    frame = (
        '<iframe title="Playground: train a sparse autoencoder in this page" '
        'style="width:100%;height:760px;border:0" '
        'onload="const page = this.contentDocument; if (!page) return; '
        "this.style.height = page.body.scrollHeight + 16 + 'px'; page.addEventListener('wheel', "
        "e => this.dispatchEvent(new WheelEvent('wheel', e)), {passive: true})\" "
        f'srcdoc="{page}"></iframe>'
    )
    shown = f'<div class="lm-Widget lm-mod-hidden" style="display:block!important">{frame}</div>'
    text = "[playground] Train an SAE in the page, and turn the price on while it runs."
    display({"text/html": shown, "text/plain": text}, raw=True)

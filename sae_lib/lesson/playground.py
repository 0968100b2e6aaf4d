"""The playground: a page that trains an SAE while you watch."""

import html
from pathlib import Path

from IPython.display import display

PLAYGROUND = Path(__file__).with_name("playground.html")


def show_playground() -> None:
    """Display playground.html in a frame, so that its style stays there.

    The page itself takes the height that it needs, and the theme of what is around it; 560 px are
    for where it may not ask. Where scripts may not run, the frame is removed. nbconvert's sanitiser
    turns it into text instead: the classes, known to its pages, hide that, and the style, which
    the sanitiser takes away, shows the frame everywhere else.
    """
    page = html.escape(PLAYGROUND.read_text(encoding="utf-8"))
    frame = (
        '<iframe title="Playground: train a sparse autoencoder in this page" '
        f'style="width:100%;height:560px;border:0" srcdoc="{page}"></iframe>'
    )
    shown = f'<div class="lm-Widget lm-mod-hidden" style="display:block!important">{frame}</div>'
    text = "[playground] Train an SAE in the page, and turn the price on while it runs."
    display({"text/html": shown, "text/plain": text}, raw=True)

"""The playground: the page that trains an SAE, in a frame of its own."""

import html
from pathlib import Path

from IPython.display import display

PLAYGROUND = Path(__file__).with_name("playground.html")


def show_playground() -> None:
    page = html.escape(PLAYGROUND.read_text(encoding="utf-8"))
    frame = f'<iframe title="Playground" style="width:100%;height:760px;border:0" srcdoc="{page}"></iframe>'
    text = "[playground] Train an SAE in the page, and turn the price on while it runs."
    display({"text/html": frame, "text/plain": text}, raw=True)

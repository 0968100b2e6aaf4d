"""How figures are shown: as pictures with their text, in every viewer; and the playground."""

import io
from pathlib import Path

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from PIL import Image
from traitlets.config import PyFileConfigLoader

from sae_lib import plots
from sae_lib.lesson import figures

DOCS = Path(__file__).resolve().parents[1] / "docs"
WHAT = 'Two "bars" <& more>.'
ALTS = [f"{WHAT} 1 of 2 find all 2", "A matrix. A title"]


def page_of(outputs: list, exporter: HTMLExporter, *, sanitised: bool) -> str:
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell("show(…)", outputs=outputs)]
    exporter.sanitize_html = sanitised
    return exporter.from_notebook_node(notebook)[0]


@pytest.fixture
def outputs(monkeypatch) -> list:
    """What is displayed from now on, as a notebook saves it."""
    seen = []

    def display(data, metadata=None, raw=False):
        assert raw
        seen.append(nbformat.v4.new_output("display_data", data, metadata=metadata or {}))

    monkeypatch.setattr(figures, "display", display)
    return seen


@pytest.fixture
def shown(outputs) -> list:
    figures.show(plots.plot_bars({"one": [1], "two": [2]}, 2), WHAT)
    ax = plots.plot_matrix(np.eye(3))
    ax.set_title("A title", loc="left")
    figures.show(ax, "A matrix.")
    return outputs


def test_a_figure_is_a_picture_with_its_text_and_what_its_titles_say(shown):
    for output, what, alt in zip(shown, (WHAT, "A matrix."), ALTS, strict=True):
        assert set(output.data) == {"image/png", "text/plain"}
        assert output.data["text/plain"] == f"[figure] {what}"
        assert output.metadata == {"image/png": {"alt": alt}}


@pytest.mark.parametrize("sanitised", [False, True])
def test_the_page_keeps_every_picture_and_its_text(shown, sanitised):
    ours = PyFileConfigLoader("nbconvert_config.py", str(DOCS)).load_config()
    page = page_of(shown, HTMLExporter(config=ours), sanitised=sanitised)
    pictures = BeautifulSoup(page, "html.parser").find_all("img")
    assert [img["alt"] for img in pictures] == ALTS
    assert all(img["src"].startswith("data:image/png;base64,") for img in pictures)
    assert page_of(shown, HTMLExporter(), sanitised=True).count("<img") == 2  # by others


def test_a_small_palette_leaves_zero_and_the_background_white():
    rng = np.random.default_rng(0)
    matrix = np.clip(rng.normal(size=(20, 10)) / 2, -1, 1)
    matrix[10] = 0
    ax = plots.plot_matrix(matrix)
    x, y = ax.transData.transform((4.5, 10)).astype(int)  # y from below
    png = figures.png(ax.figure)
    picture = Image.open(io.BytesIO(png))
    assert picture.mode == "P" and len(png) < 20_000
    picture = picture.convert("RGB")
    for place in ((2, 2), (x, picture.height - y)):
        assert picture.getpixel(place) == (255, 255, 255)


def test_the_playground_is_a_frame_of_its_own_and_leaves_nothing_where_scripts_may_not_run(
    tmp_path, monkeypatch, outputs
):
    page = tmp_path / "playground.html"
    page.write_text('<p title="é">1 &lt; 2</p><script>go("now")</script>', encoding="utf-8")
    monkeypatch.setattr(figures, "PLAYGROUND", page)
    figures.show_playground()
    (output,) = outputs
    assert output.data["text/plain"].startswith("[playground]")
    assert 'srcdoc="&lt;p title=&quot;é&quot;&gt;1 &amp;lt; 2' in output.data["text/html"]
    assert "<iframe" in page_of([output], HTMLExporter(), sanitised=False)
    cleaned = page_of([output], HTMLExporter(), sanitised=True)
    assert "<iframe" not in cleaned
    assert '<div class="lm-Widget lm-mod-hidden">' in cleaned  # hides what is left as text
    assert ".lm-Widget.lm-mod-hidden {\n  display: none !important;" in cleaned

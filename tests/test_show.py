"""How figures are shown: as sharp pictures of a stated width with their text, in every viewer."""

import base64
import io
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from PIL import Image
from traitlets.config import PyFileConfigLoader

from sae_lib.lesson import plots, show

DOCS = Path(__file__).resolve().parents[1] / "docs"
WHAT = 'Two "bars" <& more>.'


def page_of(cell, exporter: HTMLExporter, *, sanitised: bool) -> BeautifulSoup:
    notebook = nbformat.v4.new_notebook(cells=[cell])
    exporter.sanitize_html = sanitised
    return BeautifulSoup(exporter.from_notebook_node(notebook)[0], "html.parser")


@pytest.fixture
def ours() -> HTMLExporter:
    return HTMLExporter(config=PyFileConfigLoader("nbconvert_config.py", str(DOCS)).load_config())


@pytest.fixture
def shown(monkeypatch) -> list:
    """Two figures that were displayed, as a notebook saves them."""
    seen = []

    def display(data, metadata, raw):
        seen.append(nbformat.v4.new_output("display_data", data, metadata=metadata))

    monkeypatch.setattr(show, "display", display)
    show.show(plots.plot_bars({"one": [1], "two": [2]}, 2), WHAT)
    ax = plots.plot_matrix(np.eye(3))
    ax.set_title("A title", loc="left")
    show.show(ax, "A matrix.")
    return seen


def test_a_figure_is_a_sharp_picture_with_its_text_and_what_its_titles_say(shown):
    for output, what, said in zip(shown, (WHAT, "A matrix."), ("2", "A title"), strict=True):
        assert output.data["text/plain"] == f"[figure] {what}"
        assert set(output.data) == {"image/png", "text/plain"}
        (about,) = output.metadata.values()
        assert about["alt"].startswith(what) and said in about["alt"].removeprefix(what)
        picture = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
        assert about["width"] == 600 == picture.width / 2
    assert not plt.get_fignums()  # closed


def test_the_page_keeps_every_picture_with_its_text_and_width(shown, ours):
    for exporter, sanitised in ((ours, False), (ours, True), (HTMLExporter(), True)):
        page = page_of(nbformat.v4.new_code_cell(outputs=shown), exporter, sanitised=sanitised)
        for img, output in zip(page.find_all("img"), shown, strict=True):
            assert img["src"].startswith("data:image/png;base64,") and img["width"] == "600"
            assert exporter is not ours or img["alt"] == output.metadata["image/png"]["alt"]


def test_a_picture_in_a_text_cell_has_its_text_and_width_on_the_page(ours):
    source = show.picture(plots.plot_matrix(np.eye(3)).figure, WHAT)
    assert "\n" not in source
    cell = nbformat.v4.new_markdown_cell(f"<!-- figure: it -->\n\n{source}")
    (img,) = page_of(cell, ours, sanitised=False).find_all("img")
    assert (img["alt"], img["width"]) == (WHAT, "600")
    assert Image.open(io.BytesIO(base64.b64decode(img["src"].split(",")[1]))).width == 1200


def test_a_small_palette_leaves_zero_and_the_background_white():
    rng = np.random.default_rng(0)
    matrix = np.clip(rng.normal(size=(20, 10)) / 2, -1, 1)
    matrix[10] = 0
    ax = plots.plot_matrix(matrix)
    ax.figure.canvas.draw()
    x, y = (show.DENSITY * ax.transData.transform((4.5, 10))).astype(int)  # y from below
    data, width = show.png(ax.figure)
    picture = Image.open(io.BytesIO(data))
    assert picture.mode == "P" and len(data) < 30_000 and picture.width == 2 * width
    picture = picture.convert("RGB")
    for place in ((2, 2), (x, picture.height - y)):
        assert picture.getpixel(place) == (255, 255, 255)

"""How figures are shown: as sharp pictures of a stated width with their text, in every viewer."""

import base64
import io
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from PIL import Image
from traitlets.config import PyFileConfigLoader

from evidence.pages import picture
from sae_lib.lesson import plots, show

DOCS = Path(__file__).resolve().parents[1] / "docs"
OURS = HTMLExporter(config=PyFileConfigLoader("nbconvert_config.py", str(DOCS)).load_config())
WHAT = 'Two "bars" <& more>.'


def images(cell, exporter: HTMLExporter, *, sanitised: bool) -> list:
    notebook = nbformat.v4.new_notebook(cells=[cell])
    exporter.sanitize_html = sanitised
    page, _ = exporter.from_notebook_node(notebook)
    return BeautifulSoup(page, "html.parser").find_all("img")


def test_a_figure_is_a_sharp_picture_with_its_text_and_width_also_on_a_page(monkeypatch):
    shown = []
    display = lambda data, metadata, raw: shown.append((data, metadata))  # noqa: E731
    monkeypatch.setattr(show, "display", display)
    ax = plots.plot_sorted(np.eye(3))
    for fig, said in ((plots.plot_bars({"one": [1]}, 2), "0 of 1"), (ax, "3 of 3")):
        show.show(fig, WHAT)
        data, (about,) = shown[-1][0], shown[-1][1].values()
        assert data.keys() == {"image/png", "text/plain"}
        assert data["text/plain"] == f"[figure] {WHAT}"
        assert about["alt"].startswith(WHAT) and said in about["alt"].removeprefix(WHAT)
        drawn = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
        assert about["width"] == 600 == drawn.width / 2
        output = nbformat.v4.new_output("display_data", data, metadata=shown[-1][1])
        for exporter, sanitised in ((OURS, False), (OURS, True), (HTMLExporter(), True)):
            cell = nbformat.v4.new_code_cell(outputs=[output])
            (img,) = images(cell, exporter, sanitised=sanitised)
            assert img["src"].startswith("data:image/png;base64,") and img["width"] == "600"
            assert exporter is not OURS or img["alt"] == about["alt"]
    assert not plt.get_fignums()  # closed


def test_a_picture_in_a_text_cell_has_its_text_and_width_on_the_page():
    source = picture(plots.plot_matrix(np.eye(3)).figure, WHAT)
    cell = nbformat.v4.new_markdown_cell(f"<!-- figure: it -->\n\n{source}")
    (img,) = images(cell, OURS, sanitised=False)
    assert (img["alt"], img["width"]) == (WHAT, "600") and "\n" not in source
    assert Image.open(io.BytesIO(base64.b64decode(img["src"].split(",")[1]))).width == 1200


def test_a_small_palette_leaves_zero_and_the_background_white():
    matrix = np.clip(np.random.default_rng(0).normal(size=(20, 10)) / 2, -1, 1)
    matrix[10] = 0
    ax = plots.plot_matrix(matrix)
    ax.figure.canvas.draw()
    x, y = (show.DENSITY * ax.transData.transform((4.5, 10))).astype(int)  # y from below
    data, _ = show.png(ax.figure)
    drawn = Image.open(io.BytesIO(data))
    assert drawn.mode == "P" and len(data) < 30_000
    for place in ((2, 2), (x, drawn.height - y)):
        assert drawn.convert("RGB").getpixel(place) == (255, 255, 255)

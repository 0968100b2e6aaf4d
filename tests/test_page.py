"""The page, as `nbconvert --config docs/nbconvert_config.py` makes them."""

import re
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from traitlets.config.loader import PyFileConfigLoader

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(ROOT.glob("*.ipynb"))
CONFIG = PyFileConfigLoader("nbconvert_config.py", str(ROOT / "docs")).load_config()
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@each_notebook
def test_a_page_is_whole_without_a_network(path):
    page, _ = HTMLExporter(config=CONFIG).from_filename(path)
    soup = BeautifulSoup(page, "html.parser")
    heading = nbformat.read(path, 4).cells[0].source.splitlines()[0]
    assert soup.title.string == heading.removeprefix("# ") and len(soup.select("h1")) == 1
    assert not soup.select("script[src], link[href], img[src^=http]")
    assert "LIBRARY = (" not in page
    assert len(soup.select("details.predict")) >= 3
    assert soup.select("math") and not soup.select("math merror")
    for code in soup.select("pre, code, script, style, annotation"):
        code.decompose()
    assert "$" not in soup.get_text(), "a formula was left as it was written"
    assert "**" not in soup.get_text(), "a folded text needs a blank line, or its Markdown is raw"
    for other in NOTEBOOKS:
        assert bool(soup.select(f'nav a[href="{other.stem}.html"]')) == (other != path)


def test_at_most_25_slides_each_with_one_title_one_figure_and_40_words():
    shown = []
    for cell in (cell for path in NOTEBOOKS for cell in nbformat.read(path, 4).cells):
        kind = cell.metadata.get("slideshow", {}).get("slide_type", "-")
        if kind in ("slide", "subslide"):
            shown.append([cell])
        elif kind not in ("notes", "skip"):
            shown[-1].append(cell)
    assert 15 <= len(shown) <= 25
    for slide in shown:
        text = "\n".join(cell.source for cell in slide if cell.cell_type == "markdown")
        outputs = [output for cell in slide for output in cell.get("outputs", [])]
        pictures = sum("image/png" in output.get("data", {}) for output in outputs)
        titles = re.findall(r"(?m)^#+ .*", text)
        words = re.sub(r"(?ms)\$\$.*?\$\$|<!--.*?-->|<img.*?>|^#+ .*?$", "", text).split()
        assert len(titles) == 1 and pictures + text.count("<img") <= 1 and len(words) <= 40, titles

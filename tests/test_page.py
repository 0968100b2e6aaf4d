"""The page, as `nbconvert --config docs/nbconvert_config.py` makes them."""

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

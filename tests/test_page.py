"""The page and the slides, as `nbconvert --config docs/nbconvert_config.py` makes them."""

import shutil
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter, SlidesExporter
from traitlets.config.loader import PyFileConfigLoader

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(ROOT.glob("*.ipynb"))
CONFIG = PyFileConfigLoader("nbconvert_config.py", str(ROOT / "docs")).load_config()
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

# what a slide holds that its window of 1280 by 720 cuts, or that is too small to be seen
CUT = """() => [...Reveal.getCurrentSlide().querySelectorAll("h1,h2,h3,p,li,pre,td,img,iframe")]
  .filter((e) => !e.closest("aside") && e.getClientRects().length)
  .map((e) => [e, e.getBoundingClientRect()])
  .filter(([e, box]) => box.left < 0 || box.top < 0 || box.right > innerWidth + 1
    || box.bottom > innerHeight + 1 || e.scrollWidth > e.clientWidth + 1 && e.clientWidth
    || e.matches("img, iframe") && box.height < 250)
  .map(([e]) => e.outerHTML.slice(0, 80))"""


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


@pytest.mark.slow
@each_notebook
def test_no_slide_is_cut_and_the_playground_has_room(path, tmp_path):
    api = pytest.importorskip("playwright.sync_api")
    if not BROWSER or not (ROOT / "node_modules/reveal.js").exists():
        pytest.skip("needs chromium, and `npm install --no-save reveal.js@6.0.2`")
    cells = nbformat.read(path, 4).cells
    kinds = [cell.metadata.get("slideshow", {}).get("slide_type") for cell in cells]
    deck = tmp_path / "slides.html"
    deck.write_text(SlidesExporter(config=CONFIG).from_filename(path)[0], encoding="utf-8")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(deck.as_uri())
        n = page.evaluate("Reveal.getTotalSlides()")
        assert n == kinds.count("slide") + kinds.count("subslide")
        for i in range(n):
            page.wait_for_timeout(500)  # a frame has measured itself
            assert page.evaluate(CUT) == [], f"slide {i + 1}"
            page.evaluate("Reveal.next()")
        browser.close()
    assert not [url for url in asked if url.startswith("http")]

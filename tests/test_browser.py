"""In a real browser: the playground's story, its frame in a notebook, and the slides.

    pytest -m slow -n 0 tests/test_browser.py

Needs a Chromium that is installed (no "playwright install").
"""

import re
import shutil

import nbformat
import pytest
from nbconvert import SlidesExporter
from playwright.sync_api import Page, TimeoutError, sync_playwright
from test_page import CONFIG, ROOT, each_notebook

from sae_lib.lesson import playground

pytestmark = pytest.mark.slow
PATIENCE = 120_000  # milliseconds; a busy machine is slow
DESKTOP, PHONE = {"width": 1000, "height": 600}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    assert chromium, "no Chromium found; on Debian: apt-get install chromium"
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=flags)


def says(page: Page, pattern: str) -> None:
    """Wait until the line of events matches."""
    found = "pattern => new RegExp(pattern).test(document.querySelector('[role=status]').innerText)"
    try:
        page.wait_for_function(found, arg=pattern, timeout=PATIENCE)
    except TimeoutError as error:
        sentence = page.get_by_role("status").inner_text()
        raise AssertionError(f"waited for {pattern!r}, but it says {sentence!r}") from error


def press(page: Page, name: str, key: str | None = None) -> None:
    """Press a button: with the mouse or with a key."""
    button = page.get_by_role("button", name=re.compile(name))
    button.press(key) if key else button.click()


def meter(page: Page) -> tuple[float, ...]:
    """The route and the straight line, as they are shown."""
    shown = (page.locator(f"#{name}").inner_text() for name in ("routeLength", "straightLength"))
    return tuple(map(float, shown))


def story(page: Page, key: str | None = None) -> None:
    """Without a price a detour; with it all four are found, straight ahead; off again they stay."""
    says(page, "^Press Train")
    assert page.evaluate("experiment.batch") == 0, "it trains before it is told to"
    press(page, "Train", key)
    says(page, "error is gone. But a detour costs nothing")
    route, straight = meter(page)
    assert abs(straight - 1) < 0.1 and route > 1.5, (route, straight)
    press(page, "price on", key)
    says(page, "^All 4 are found")
    assert page.locator("#foundDots .found").count() == 4
    page.wait_for_timeout(2_000)
    route, straight = meter(page)
    assert route < 1.2 * straight, (route, straight)
    press(page, "price off", key)
    says(page, "^They stay. No error")
    press(page, "Pause", key)
    paused = page.evaluate("experiment.batch")
    page.wait_for_timeout(300)
    assert page.evaluate("experiment.batch") == paused, "it trains on although it is paused"


def story_on_a_phone(page: Page) -> None:
    """And then the input follows the mouse, a tap and the arrow keys, and its route follows it."""
    story(page)
    probe, x = page.locator("#probe"), "ui.probe[0]"
    box = probe.locator("circle").nth(1).bounding_box()
    y = box["y"] + box["height"] / 2
    middle = page.locator("#straight").evaluate("path => path.getScreenCTM().e")
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(middle - 40, y, steps=4)
    page.mouse.up()
    assert -0.6 < page.evaluate(x) < -0.2, "it was dragged to the left"
    page.mouse.click(middle + 60, y)
    tapped = page.evaluate(x)
    assert tapped > 0.2, tapped
    probe.press("ArrowLeft")
    assert abs(tapped - page.evaluate(x) - 0.05) < 1e-6
    route = page.evaluate("experiment.route(ui.probe)")
    for shown, exact in zip(meter(page), (route["length"], route["straight"]), strict=True):
        assert abs(shown - exact) < 0.006, (shown, exact)


def other_cases(page: Page) -> None:
    """The heatmap, a crowded case and what is under More."""
    press(page, "10 in 5")
    assert page.locator("#heatmap g").count() == 20 and not page.locator("#plane").is_visible()
    press(page, "price on")  # which also begins to train
    says(page, "^All 10 are found")
    press(page, "15 in 5")
    says(page, "^Fifteen crowd .* try 0.2")
    page.get_by_text("More").click()
    page.get_by_role("combobox").select_option("80")
    assert page.locator("#heatmap rect").count() == 15 * 80
    press(page, "price on")
    says(page, "^Now firing costs 0.2")
    page.get_by_role("slider").press("ArrowRight")
    says(page, "^Now firing costs 0.3")
    press(page, "New start")
    assert page.evaluate("experiment.batch") == 0 != page.evaluate("ui.seed")
    press(page, "4 in 2")
    page.get_by_role("combobox").select_option("80")
    assert "by chance: 3.9" in page.locator("#chance").inner_text()


LOOKS = [
    ({"viewport": PHONE}, story_on_a_phone),
    ({"viewport": DESKTOP, "reduced_motion": "reduce"}, lambda page: story(page, "Enter")),
    ({"viewport": DESKTOP, "color_scheme": "dark"}, other_cases),
]


@pytest.mark.parametrize(("look", "play"), LOOKS, ids=["phone", "keys", "dark"])
def test_the_playground_by_itself(browser, look, play):
    page, errors = browser.new_page(**look), []
    page.on("console", lambda m: m.type == "error" and errors.append(m.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(playground.PLAYGROUND.as_uri())
    page.evaluate("ui.seed = 0; newStart()")  # a start that this test knows
    theme = look.get("color_scheme", "light")
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    play(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it is too wide"
    for control in page.locator("button:visible, select:visible, summary").all():
        assert control.bounding_box()["height"] >= 40, "too small to be touched"
    assert not errors


def test_in_a_notebook_it_takes_its_height_and_theme_and_hands_the_wheel_on(browser, displayed):
    """Hidden at first, as in slides; at most 560 px high where a notebook is wide."""
    playground.show_playground()
    page = browser.new_page()
    page.set_content(f"<div id=slide style='display:none'>{displayed[-1]['text/html']}</div>")
    page.wait_for_timeout(500)
    page.evaluate("slide.style.display = 'block'")
    inside, frame = page.frames[1], page.locator("iframe")
    for width in (1000, 390):
        page.evaluate(f"slide.style.width = '{width}px'")
        page.wait_for_timeout(300)
        has = frame.bounding_box()["height"]
        needs = inside.evaluate("document.documentElement.getBoundingClientRect().height")
        assert abs(has - needs) <= 1 and (has <= 560 or width == 390), (width, has, needs)
    dark = "document.documentElement.dataset.theme === 'dark'"
    for look in ("body.dataset.jpThemeLight = false", "body.style.color = '#ddd'",
                 "documentElement.setAttribute('theme', 'dark')"):  # fmt: skip
        inside.wait_for_function(f"!({dark})", timeout=5_000)
        page.evaluate(f"document.{look}")
        inside.wait_for_function(dark, timeout=5_000)
        page.evaluate("for (const e of [document.documentElement, document.body])"
                      "for (const a of [...e.attributes]) e.removeAttribute(a.name)")  # fmt: skip
    page.evaluate("window.turns = 0; document.addEventListener('wheel', () => turns++)")
    page.mouse.move(200, 200)
    page.mouse.wheel(0, 100)
    page.wait_for_function("turns > 0", timeout=5_000)


# what a slide holds that its window of 1280 by 720 cuts, or that is too small to be seen
CUT = """() => [...Reveal.getCurrentSlide().querySelectorAll("h1,h2,h3,p,li,pre,td,img,iframe")]
  .filter((e) => !e.closest("aside") && e.getClientRects().length)
  .map((e) => [e, e.getBoundingClientRect()])
  .filter(([e, box]) => box.left < 0 || box.top < 0 || box.right > innerWidth + 1
    || box.bottom > innerHeight + 1 || e.scrollWidth > e.clientWidth + 1 && e.clientWidth
    || e.matches("img, iframe") && box.height < 250)
  .map(([e]) => e.outerHTML.slice(0, 80))"""


@pytest.mark.skipif(not (ROOT / "node_modules/reveal.js").exists(), reason="needs reveal.js")
@each_notebook
def test_no_slide_is_cut_and_the_playground_has_room(browser, path, tmp_path):
    cells = nbformat.read(path, 4).cells
    kinds = [cell.metadata.get("slideshow", {}).get("slide_type") for cell in cells]
    deck = tmp_path / "slides.html"
    deck.write_text(SlidesExporter(config=CONFIG).from_filename(path)[0], encoding="utf-8")
    page, asked = browser.new_page(viewport={"width": 1280, "height": 720}), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(deck.as_uri())
    n = page.evaluate("Reveal.getTotalSlides()")
    assert n == kinds.count("slide") + kinds.count("subslide")
    for i in range(n):
        page.wait_for_timeout(500)  # a frame has measured itself
        assert page.evaluate(CUT) == [], f"slide {i + 1}"
        page.evaluate("Reveal.next()")
    assert not [url for url in asked if url.startswith("http")]

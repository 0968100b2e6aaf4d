"""The playground in a real browser: its story pressed through, and its frame.

    python tests/browser_playground.py

Needs pip's playwright and a Chromium that is installed (no "playwright install"). Exit status 1,
with a sentence, if anything is not as it should be. Not collected by pytest.
"""

import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, TimeoutError, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sae_lib.lesson import playground

PATIENCE = 120_000  # milliseconds; a busy machine is slow


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


def in_a_notebook(page: Page) -> None:
    """Hidden at first, as in slides: then it takes the height that it needs, and at most 560 px
    where a notebook is wide; it follows the theme around it, and hands the wheel on."""
    shown = []
    playground.display = lambda data, **options: shown.append(data["text/html"])
    playground.show_playground()
    page.set_content(f"<div id=slide style='display:none'>{shown[0]}</div>")
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


def alone(page: Page, play) -> None:
    """The page by itself, played through: nothing to scroll sideways, all large enough to touch."""
    errors = []
    page.on("console", lambda m: m.type == "error" and errors.append(m.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(playground.PLAYGROUND.as_uri())
    page.evaluate("ui.seed = 0; newStart()")  # a start that this test knows
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert page.evaluate("document.documentElement.dataset.theme") == ("dark" if dark else "light")
    play(page)
    wide, window = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window, f"{wide} pixels wide in a window of {window}"
    for control in page.locator("button:visible, select:visible, summary").all():
        height = control.bounding_box()["height"]
        assert height >= 40, f"{control.inner_text()!r} is {height} pixels high"
    assert not errors, errors


def main() -> None:
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    assert chromium, "no Chromium found; on Debian: apt-get install chromium"
    desktop, phone = {"width": 1000, "height": 600}, {"width": 390, "height": 844}
    looks = [
        ({"viewport": phone}, story_on_a_phone),
        ({"viewport": desktop, "reduced_motion": "reduce"}, lambda page: story(page, "Enter")),
        ({"viewport": desktop, "color_scheme": "dark"}, other_cases),
    ]
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        for look, play in looks:
            alone(browser.new_page(**look), play)
        in_a_notebook(browser.new_page())
        browser.close()
    print("The playground: pressed, dragged and framed.")


if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:
        sys.exit(f"The playground: {error}")

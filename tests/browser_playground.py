"""The playground in a real browser: its story pressed through, by mouse and by keyboard.

    python tests/browser_playground.py [a folder for pictures]

Needs pip's playwright and a Chromium that is installed (no "playwright install"). Exit status 1,
with a sentence, if anything is not as it should be. Not collected by pytest.
"""

import re
import shutil
import sys
from pathlib import Path

import nbformat
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "playground.html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 120_000  # milliseconds; a busy machine is slow


def says(page: Page, pattern: str) -> None:
    """Wait until the sentence matches."""
    found = "pattern => new RegExp(pattern).test(document.querySelector('[role=status]').innerText)"
    try:
        page.wait_for_function(found, arg=pattern, timeout=PATIENCE)
    except Exception as error:
        sentence = page.get_by_role("status").inner_text()
        raise AssertionError(f"waited for {pattern!r}, but it says {sentence!r}") from error


def press(page: Page, name: str, key: str | None = None) -> None:
    """Press a button: with the mouse, or with a key after walking to it with Tab."""
    button = page.get_by_role("button", name=re.compile("^" + name))
    if key is None:
        return button.click()
    page.locator("body").evaluate("() => document.activeElement.blur()")
    for _ in range(20):
        page.keyboard.press("Tab")
        if button.evaluate("b => b === document.activeElement"):
            outline = button.evaluate("b => getComputedStyle(b).outlineStyle")
            assert outline != "none", f"{name}: the focus cannot be seen"
            return page.keyboard.press(key)
    raise AssertionError(f"Tab does not reach the button {name}")


def story(page: Page, key: str | None = None) -> None:
    """Without a price the error goes; with it all ten are found; off again."""
    says(page, "^Press Train. Price off")
    assert page.evaluate("experiment.batch") == 0, "it trains before it is told to"
    press(page, "Train", key)
    says(page, r"^Batch .*Price off: the error is gone, \d+\.\d latents .* [012] of 10 features")
    press(page, r"Turn the price on \(λ = 0\.01\)", key)
    says(page, r"Price 0\.01: the error is gone, [12]\.\d latents .* 10 of 10 features are found")
    picture, curves = page.evaluate("[$('picture').ariaLabel, $('curves').ariaLabel]")
    assert "10 of 10 features found" in picture, picture
    assert re.search("price 0 from batch 0, 0.01 from batch [1-9]", curves), curves
    press(page, "Turn it off", key)
    says(page, r"Price off: the error is gone, [3-9]\.\d latents fire")
    press(page, "Pause", key)
    says(page, r"^Paused\. Batch ")
    paused = page.evaluate("experiment.batch")
    page.wait_for_timeout(300)
    assert page.evaluate("experiment.batch") == paused, "it trains on although it is paused"


def fits(page: Page) -> None:
    """Nothing to scroll sideways, and everything large enough to be touched and read."""
    wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1], f"{wide[0]} pixels wide in a window of {wide[1]}"
    for control in page.locator("button:visible, select:visible, label:visible").all():
        box = control.bounding_box()
        assert box["height"] >= 40, f"{control.inner_text()!r} is {box['height']} pixels high"


def other_controls(page: Page) -> None:
    """Crowded features, a price turned by the keyboard, the falling price, the plane."""
    page.get_by_label("features in 5 neurons").select_option("15")
    assert page.get_by_text("Past 2 × 5 = 10").is_visible()
    page.get_by_role("slider").press("ArrowRight")
    says(page, "^Press Train. Price 0.0001")
    page.get_by_label("features in 5 neurons").select_option("10")
    assert page.get_by_text("Past 2 × 5 = 10").is_hidden()
    page.get_by_label("falls from").check()
    press(page, "Train")
    says(page, r"^Paused. Batch 2,500. Price 0\.0001: .* 10 of 10 features are found")
    press(page, "4 features in 2 neurons")
    says(page, "^Press Train. Price off")
    press(page, "Turn the price on")  # which also begins to train
    says(page, "Price 0.01: .* 4 of 4 features are found")


def in_the_notebook(page: Page) -> None:
    """Its frame takes the height that it needs, and hands the wheel on to the page around it."""
    cells = nbformat.read(ROOT / "sparse_autoencoders.ipynb", as_version=4).cells
    (cell,) = (cell for cell in cells if cell.id == "playground")
    page.set_content(cell.outputs[0].data["text/html"])
    page.evaluate("window.turns = 0; document.addEventListener('wheel', () => turns++)")
    page.mouse.move(300, 300)
    page.mouse.wheel(0, 100)
    page.wait_for_function("turns > 0")
    hidden = "(body) => body.scrollHeight - window.innerHeight"
    assert page.frames[1].locator("body").evaluate(hidden) <= 0, "a part of it cannot be seen"
    page.frame_locator("iframe").get_by_role("status").wait_for()


def main() -> None:
    pictures = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert chromium, "no Chromium found; on Debian: apt-get install chromium"
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    looks = {
        "desktop": ({"viewport": {"width": 1000, "height": 780}}, story, None),
        "keyboard": ({"viewport": {"width": 1000, "height": 780}}, story, "Enter"),
        "phone": ({"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}, story, None),
        "calm": ({"reduced_motion": "reduce"}, story, "Space"),
        "controls": ({}, other_controls, None),
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=flags)
        for name, (look, play, key) in looks.items():
            page, errors = browser.new_page(**look), []
            page.set_default_timeout(PATIENCE)
            page.on("console", lambda m, to=errors: m.type == "error" and to.append(m.text))
            page.on("pageerror", lambda error, to=errors: to.append(str(error)))
            page.goto(PAGE.as_uri())
            play(page, key) if key else play(page)
            fits(page)
            if pictures:
                page.screenshot(path=pictures / f"{name}.png", full_page=True)
            assert not errors, errors
            print(f"{name}: {page.get_by_role('status').inner_text()}")
            page.close()
        in_the_notebook(browser.new_page())
        browser.close()


if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:
        sys.exit(f"The playground: {error}")

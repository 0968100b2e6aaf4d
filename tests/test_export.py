"""The page and the slides: built as the README says, whole, and free of the packed library."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", params=["html", "slides"])
def export(request, tmp_path_factory):
    """The format and the text of the exported file, made by the README's own command."""
    readme = (ROOT / "README.md").read_text()
    command = re.search(rf"jupyter nbconvert (.*--to {request.param} .*)", readme).group(1)
    folder = tmp_path_factory.mktemp(request.param)
    subprocess.run(
        [sys.executable, "-m", "nbconvert", *command.split(), "--output-dir", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return request.param, next(folder.iterdir()).read_text()


def test_every_picture_is_embedded_and_described(export):
    _, text = export
    pictures = re.findall(r"<img[^>]*>", text)
    assert len(pictures) > 15
    for picture in pictures:
        assert re.search(r'alt="[^"]{20,}"', picture), picture[:200]
        assert 'src="data:image/png;base64,' in picture


def test_the_packed_library_is_left_out(export):
    _, text = export
    assert "provide_library" not in text


def test_the_page_shows_the_code_and_the_slides_do_not(export):
    kind, text = export
    assert ("class=" in text) and (("SparseAutoencoder</span><span" in text) == (kind == "html"))


def test_there_is_a_slide_for_each_section(export):
    kind, text = export
    if kind == "slides":
        slides = re.split(r"<section[ >]", text)
        for number in range(1, 9):
            heading = rf'<h2 id="{number}\.'
            assert sum(bool(re.search(heading, slide)) for slide in slides) == 1, number
        assert len(slides) > 40


def test_the_page_fits_a_phone(export):
    kind, text = export
    if kind == "html":
        assert 'name="viewport"' in text
        assert not re.search(r'<img[^>]*style="(?![^"]*max-width:100%)', text)

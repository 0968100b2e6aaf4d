"""The instructor's guide: its headings and quotes exist, and each row of its tables runs again."""

import re

import pytest
from test_notebook import BOTH, CELLS, run_until, set_lines

from sae_lib.lesson import show
from tests.measured import shown
from tools.run_notebook import ROOT

GUIDE = (ROOT / "docs" / "instructor.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("| ").split("|")]
    for line in GUIDE.splitlines()
    if re.match(r"\| (none|`[A-Z_0-9]+ = |`my_)", line)
]
SETTINGS = [row for row in ROWS if not row[0].startswith("`my_")]
KNOBS = [row for row in ROWS if row[0].startswith("`my_")]


def changes_of(row: list[str]) -> dict[str, str]:
    return dict(re.findall(r"`(\w+) = ([^`]+)`", row[0]))


def test_the_headings_and_the_words_that_it_quotes_exist():
    cells = [cell for notebook in BOTH.values() for cell in notebook.cells]
    pages = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    headings = " ".join(re.findall(r"(?m)^#+ (.*)$", pages))
    called = set(re.findall(r"(?<!\*)\*([A-Z][^*>]{4,60})\*(?!\*)", GUIDE.replace("\n", " ")))
    called -= {"Run all"}  # a menu
    outputs = "\n".join(shown(cell.get("outputs", [])) for cell in cells)
    quoted = re.findall(r"`([A-Z0-9][^`=]* [^`=]*)`", GUIDE)
    checks = (ROOT / "sae_lib/lesson/exercises.py").read_text(encoding="utf-8")
    said = re.findall(r'"([^"]+)"', GUIDE.split("## Exercises")[1])
    for texts, where in ((called, headings), (quoted, outputs), (said, checks)):
        assert texts and not [text for text in texts if text not in where]


def is_about(number: float, said: str) -> bool:
    """Within a tenth: another processor ends a training a little elsewhere."""
    return number == pytest.approx(float(said.removesuffix(" %")), rel=0.1, abs=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row[0])
def test_a_change_of_the_settings_does_what_the_guide_says(row, capsys, monkeypatch, displayed):
    said_by = lambda data, metadata, raw: print(metadata["image/png"]["alt"])  # noqa: E731
    monkeypatch.setattr(show, "display", said_by)
    _, verdict, worst, unexplained, l0, _ = row
    try:
        run_until("verdict", changes_of(row), without=set())
        said = displayed[-1]["text/plain"]
    except AssertionError as error:
        said = str(error)
    printed = capsys.readouterr().out
    cosine = float(re.search(r"worst cosine ([\d.]+)", said)[1])
    assert verdict in said and cosine == pytest.approx(float(worst), abs=0.03)
    assert is_about(float(re.search(r"\(FVU\) ([\d.]+)%", printed)[1]), unexplained)
    assert is_about(float(re.search(r"at the end ([\d.]+)", printed)[1]), l0)


@pytest.mark.slow
def test_a_turn_of_the_knobs_prints_what_the_guide_says(capsys, displayed):
    # the knobs train an SAE of their own, so that section 5 can be short here
    names = run_until("heatmap", {"N_STEPS": 300})
    exec(CELLS["knobs-code"].source, names)
    for row in KNOBS:
        exec(set_lines(CELLS["knobs"].source, changes_of(row)), names)
        printed = capsys.readouterr().out
        assert f"seed 1: {row[1]} recovered" in printed
        l0, unexplained = re.search(r"L0 ([\d.]+), unexplained ([\d.]+)%", printed).groups()
        assert is_about(float(l0), row[2]) and is_about(float(unexplained), row[3])

"""The instructor's tables: each row is run again, and must print what the guide says."""

import re

import pytest
from test_notebook import CELLS, ROOT, _run_cells

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


def test_the_guide_has_its_tables_and_calls_cells_by_headings_that_exist():
    assert len(SETTINGS) == 7 and len(KNOBS) == 7
    pages = "\n".join(cell.source for cell in CELLS.values() if cell.cell_type == "markdown")
    headings = " ".join(re.findall(r"(?m)^#+ (.*)$", pages))
    called = set(re.findall(r"(?<!\*)\*([A-Z][^*>]{4,60})\*(?!\*)", GUIDE))
    called -= {"File", "Runtime", "View", "Run"}
    assert len(called) > 8
    missing = [name for name in called if name.strip(":.") not in headings]
    assert not missing, missing


@pytest.mark.slow
@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row[0])
def test_a_change_of_the_settings_does_what_the_guide_says(row, capsys, own_library):
    _, verdict, fvu, l0, _ = row
    try:
        namespace = _run_cells(changes_of(row), "verdict", but={"no-penalty"})
        said = namespace["verdict"]
    except AssertionError as error:
        said = str(error)
    printed = capsys.readouterr().out
    assert verdict in said
    assert f"unexplained variance (FVU): {fvu}" in printed
    assert f"L0, ending at {l0};" in printed


@pytest.mark.slow
def test_a_turn_of_the_knobs_prints_what_the_guide_says(capsys, own_library):
    # the knobs train an SAE of their own, so that section 5 can be short here
    namespace = _run_cells({"N_STEPS": "300"}, "heatmap", but={"no-penalty"})
    namespace["TRAINING"]["n_steps"] = 8000
    for row in KNOBS:
        source = CELLS["knobs"].source
        for name, value in changes_of(row).items():
            source, n = re.subn(rf"(?m)^{name} = .*?(?=  #)", f"{name} = {value}", source)
            assert n == 1
        exec(source, namespace)
        assert capsys.readouterr().out.splitlines()[-1] == row[1]

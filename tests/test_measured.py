"""The comparison of notebooks: it forgives what a cell declares as measured, and sees all else."""

import re
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from nbval.plugin import IPyNbCell

from tests import moved_starts
from tests.measured import differences, shown
from tools.run_notebook import LESSONS, ROOT, execute


def cell(text: str, *tags: str, alt: str = "a picture") -> nbformat.NotebookNode:
    """As saved: a printed text and a picture with its alternative text."""
    picture = new_output("display_data", {"image/png": "x"}, metadata={"image/png": {"alt": alt}})
    outputs = [new_output("stream", text=f"{text}\n"), picture]
    return new_code_cell("", outputs=outputs, metadata={"tags": list(tags)})


L0 = "λ = 0.01: 10 of 10, L0 1.7"


@pytest.mark.parametrize(
    ("saved", "now", "tags", "agree"),
    [
        (L0, "λ = 0.01: 10 of 10, L0 1.8", ["measured: L0"], True),
        (L0, "λ = 0.01: 10 of 10, L0 1.9", ["measured: L0"], False),
        (L0, "λ = 0.01: 10 of 10, L0 1.9", ["measured: L0 ±0.2"], True),
        (L0, "λ = 0.01: 10 of 10, L0 1.8", [], False),
        (L0, "λ = 0.01: 9 of 10, L0 1.7", ["measured: L0 ±1"], False),
        (L0, "λ = 0.02: 10 of 10, L0 1.7", ["measured: L0 ±1"], False),
        (L0, "λ = 0.01: 10 of 10, l0 1.7", ["measured: L0 ±1"], False),
        (L0, "λ = 0.01: 10 of 10, L0 nan", ["measured: L0 ±1"], False),
        ("L0  8 to 9%\nrow: 1", "L0 10 to 9%\nrow: 1", ["measured: L0 ±2", "measured: row"], True),
        ("L0  8 to 9%\nrow: 1", "L0 8 to 12%\nrow: 1", ["measured: L0 ±2"], False),
        ("from batch 1,286", "from batch 998", ["measured: batch ±300"], True),
        ("off: 0, L0 8\non: 9, L0 2", "off: 0, L0 9\non: 9, L0 2", ["measured: off … L0 ±1"], True),
        (
            "off: 0, L0 8\non: 9, L0 2",
            "off: 0, L0 8\non: 9, L0 3",
            ["measured: off … L0 ±1"],
            False,
        ),
        ("of 10, not 10 L0", "of 9, not 10 L0", ["measured: of"], True),
    ],
)
def test_only_what_is_declared_may_move_and_only_so_far(saved, now, tags, agree):
    assert (not differences(cell(saved, *tags), cell(now).outputs)) is agree
    in_a_picture = differences(cell("", *tags, alt=saved), cell("", alt=now).outputs)
    assert (not in_a_picture) is agree


def test_a_declaration_that_declares_nothing_is_an_error_and_so_is_what_goes_wrong():
    with pytest.raises(LookupError, match="expected a number behind the declared 'cosine'"):
        differences(cell(L0, "measured: cosine"), cell(L0).outputs)
    with pytest.raises(ValueError, match=r"a tag like 'measured: L0 ±0.2', got 'measured'"):
        differences(cell(L0, "measured"), cell(L0).outputs)
    others = [[], cell(L0).outputs[:1], [*cell(L0).outputs, new_output("stream", name="stderr")]]
    others.append([*cell(L0).outputs, new_output("error", ename="E", evalue="", traceback=[])])
    assert all(differences(cell(L0), outputs) for outputs in others)


def test_nbval_compares_so():
    test = SimpleNamespace(cell=cell(L0, "measured: L0"))
    assert IPyNbCell.compare_outputs(test, cell(L0.replace("1.7", "1.8")).outputs, [])
    assert not IPyNbCell.compare_outputs(test, cell(L0.replace("1.7", "1.9")).outputs, [])
    assert "+λ = 0.01: 10 of 10, L0 1.9" in test.comparison_traceback


FAST = {"L1_COEFFICIENT": "0.01", "N_STEPS": "1_200", "N_SAMPLES": "10_000"}
CHANGES = {
    "another λ": (r"(?m)^L1_COEFFICIENT = \S+", "L1_COEFFICIENT = 0.05"),
    "one feature fewer": (r"(?m)^N_FEATURES = 10", "N_FEATURES = 9"),
    "an L0 off by a half": (r"L0 \{(.+?):\.1f", r"L0 {\1 + 0.5:.1f"),
    "another word": ("unexplained", "explained"),
}


@pytest.mark.slow
def test_a_real_change_of_the_lesson_is_seen():
    """Each is run, in few steps: in one kernel, from the settings to the verdict once for each."""
    cells = [c for c in nbformat.read(LESSONS[0], as_version=4).cells if c.cell_type == "code"]
    start = next(i for i, c in enumerate(cells) if "\nN_FEATURES = " in c.source)
    end = next(i for i, c in enumerate(cells) if "10 of 10 recovered" in shown(c.outputs)) + 1
    part = cells[start:end]
    together = new_notebook(cells=cells[:start])
    for old, new in [("$^", ""), *CHANGES.values()]:
        assert not new or any(re.search(old, c.source) for c in part)
        for source in [c.source for c in part]:
            for name, fast in FAST.items():
                source = re.sub(rf"(?m)^{name} = \S+", f"{name} = {fast}", source)
            together.cells.append(new_code_cell(re.sub(old, new, source)))
    execute(together, ROOT, allow_errors=True)
    runs = zip(*[iter(together.cells[start:])] * len(part), strict=True)
    saved, *others = ([c.outputs for c in run] for run in runs)
    wrong = [o.evalue for outputs in saved for o in outputs if o.output_type == "error"]
    assert not wrong, wrong
    for cell_, outputs in zip(part, saved, strict=True):
        cell_.outputs = outputs
    for name, outputs in zip(CHANGES, others, strict=True):
        assert any(differences(*pair) for pair in zip(part, outputs, strict=True)), name


@pytest.mark.slow
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.name)
def test_sixteen_moved_starts_change_nothing_that_is_exact(path):
    assert moved_starts.report(path, range(16)) == ""

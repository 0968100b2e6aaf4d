"""The comparison of notebooks: it forgives what a cell declares as measured, and sees all else."""

import copy
import re
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_output
from nbval.plugin import IPyNbCell

from tests.measured import NUMBER, differences, value
from tools.run_notebook import LESSONS


def cell(text: str, *tags: str, alt: str = "a picture") -> nbformat.NotebookNode:
    """As saved: a printed text and a picture with its alternative text."""
    picture = new_output("display_data", {"image/png": "x"}, metadata={"image/png": {"alt": alt}})
    outputs = [new_output("stream", text=f"{text}\n"), picture]
    return new_code_cell("", outputs=outputs, metadata={"tags": list(tags)})


L0 = "λ = 0.01: 10 of 10, L0 1.7"
TO = "L0  8 to 9%\nrow: 1"
LINES = "off: 0, L0 8\non: 9, L0 2"
SAVED_AND_NOW = [
    (L0, "λ = 0.01: 10 of 10, L0 1.8", "L0", True),
    (L0, "λ = 0.01: 10 of 10, L0 1.9", "L0", False),
    (L0, "λ = 0.01: 10 of 10, L0 1.9", "L0 ±0.2", True),
    (L0, "λ = 0.01: 9 of 10, L0 1.7", "L0 ±1", False),
    (L0, "λ = 0.02: 10 of 10, L0 1.7", "L0 ±1", False),
    (L0, "λ = 0.01: 10 of 10, l0 1.7", "L0 ±1", False),
    (L0, "λ = 0.01: 10 of 10, L0 nan", "L0 ±1", False),
    (TO, "L0 10 to 9%\nrow: 1", "L0 ±2", True),
    (TO, "L0 8 to 12%\nrow: 1", "L0 ±2", False),
    ("from batch 1,286", "from batch 998", "batch ±300", True),
    (LINES, "off: 0, L0 9\non: 9, L0 2", "off … L0 ±1", True),
    (LINES, "off: 0, L0 8\non: 9, L0 3", "off … L0 ±1", False),
    ("of 10, not 10 L0", "of 9, not 10 L0", "of", True),
]


@pytest.mark.parametrize(("saved", "now", "measured", "agree"), SAVED_AND_NOW)
def test_only_what_is_declared_may_move_and_only_so_far(saved, now, measured, agree):
    tag = f"measured: {measured}"
    assert (not differences(cell(saved, tag), cell(now).outputs)) is agree
    in_a_picture = differences(cell("", tag, alt=saved), cell("", alt=now).outputs)
    assert (not in_a_picture) is agree
    assert differences(cell(saved), cell(now).outputs), "it moved and is not declared"
    nbval = SimpleNamespace(cell=cell(saved, tag))
    assert IPyNbCell.compare_outputs(nbval, cell(now).outputs, []) is agree
    assert bool(nbval.comparison_traceback) is not agree


def test_a_declaration_that_declares_nothing_is_an_error_and_so_is_what_goes_wrong():
    with pytest.raises(LookupError, match="expected a number behind the declared 'cosine'"):
        differences(cell(L0, "measured: cosine"), cell(L0).outputs)
    with pytest.raises(ValueError, match=r"a tag like 'measured: L0 ±0.2', got 'measured'"):
        differences(cell(L0, "measured"), cell(L0).outputs)
    others = [[], cell(L0).outputs[:1], [*cell(L0).outputs, new_output("stream", name="stderr")]]
    others.append([*cell(L0).outputs, new_output("error", ename="E", evalue="", traceback=[])])
    assert all(differences(cell(L0), outputs) for outputs in others)


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_number_of_the_notebooks_is_compared_and_every_declaration_finds_one(path):
    for saved in [c for c in nbformat.read(path, as_version=4).cells if c.get("outputs")]:
        assert not differences(saved, saved.outputs)
        for output in saved.outputs:
            text = output.get("text", "")
            for number in re.finditer(NUMBER, text):
                more = value(number[0]) + 1_000
                output["text"] = f"{text[: number.start()]}{more}{text[number.end() :]}"
                now = copy.deepcopy(saved.outputs)
                output["text"] = text
                assert differences(saved, now), (saved.id, number)

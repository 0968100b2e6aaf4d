"""The notebook itself: in step with the library, self-sufficient, and honest when it fails."""

import copy
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from nbconvert import HTMLExporter

import sae_lib
from evidence.pages import PAGES
from sae_lib.lesson import figures
from sae_lib.lesson.settings import check_settings
from tools import sync_notebook as sync

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = nbformat.read(ROOT / "sparse_autoencoders.ipynb", as_version=4)
CELLS = {cell.id: cell for cell in NOTEBOOK.cells}
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
# all ten are found with these in a second, by the same cells
FAST = {"L1_COEFFICIENT": 0.01, "N_STEPS": 1_200, "N_SAMPLES": 10_000}
# cells before the verdict that only show something
LOOKS = {"neurons", "curves-error", "curves-l0", "curves-found", "chance"}


@pytest.fixture(autouse=True, scope="module")
def nothing_displayed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "display", lambda *data, **options: None)
        yield


def printed(cell_id: str) -> str:
    """What a cell printed, and the descriptions of its pictures."""
    outputs = CELLS[cell_id].outputs
    pictures = [o.get("metadata", {}).get("image/png", {}).get("alt", "") for o in outputs]
    return "\n".join(o.get("text") or alt for o, alt in zip(outputs, pictures, strict=True))


def run_cells(*ids: str, names: dict, edits: dict | None = None, optimize: int = 0) -> dict:
    """Run these cells in `names`; edits: cell id -> (old text, new text), as a learner would."""
    for cell_id in ids:
        source = CELLS[cell_id].source
        old, new = (edits or {}).get(cell_id, ("", ""))
        assert old in source
        exec(compile(source.replace(old, new), cell_id, "exec", optimize=optimize), names)
    plt.close("all")
    return names


def run_until(
    last: str, settings: dict, *, edits: dict | None = None, optimize: int = 0, without: set = LOOKS
) -> dict:
    """The code cells up to `last`, with lines of the settings cell replaced."""
    names: dict = {}
    for cell in CODE:
        if cell.id == "constants":
            exec(set_lines(cell.source, settings, end="$"), names)
        elif cell.id not in {"library", "playground"} | without:
            run_cells(cell.id, names=names, edits=edits, optimize=optimize)
        if cell.id == last:
            return names
    raise LookupError(last)


def set_lines(source: str, settings: dict, end: str) -> str:
    """The source with each `NAME = …` replaced, up to what `end` matches."""
    for name, value in settings.items():
        source, n = re.subn(rf"(?m)^{name} = .*?(?={end})", f"{name} = {value}", source)
        assert n == 1, f"the cell does not set {name}"
    return source


def test_what_is_generated_is_what_the_library_and_the_stored_numbers_give():
    picture = re.compile(r"base64,[\w+/=]+")  # other fonts or versions draw other pixels
    kinds = set()
    for cell in NOTEBOOK.cells:
        for mark, generated in ((sync.SHOWN, sync.shown_source), (sync.DRAWN, sync.drawn)):
            found = mark.search(cell.source)
            if found and found[2] not in ("draw_first_minute", "draw_broken_runs"):  # which train
                kinds.add(found[1])
                stored, now = cell.source[found.end() :].strip("\n"), generated(*found.groups())
                assert picture.sub("", stored) == picture.sub("", now)
    assert {"sae_lib/sae.py", "sae_lib/training.py", "figure", "evidence"} <= kinds
    used = set(re.findall(r"<!-- evidence: (\S+) -->", str(NOTEBOOK)))
    assert used <= set(PAGES) and len(used) > 8
    assert (ROOT / "docs" / "playground.html").read_bytes() == figures.PLAYGROUND.read_bytes()


def test_the_notebook_carries_what_it_needs_and_no_more():
    source = CELLS["library"].source
    assert max(map(len, source.splitlines())) < 10_000  # VS Code wraps all lines if one is longer
    carried = sync.unpack(source)
    assert carried == sync.needed_library(NOTEBOOK)
    assert "sae_lib/training.py" in carried["files"] and "sae_lib/saving.py" not in carried["files"]


def test_the_saved_outputs_are_of_this_code_from_top_to_bottom_and_clean():
    nbformat.validate(NOTEBOOK)
    assert NOTEBOOK.metadata["outputs_of"] == sync.code_hash(NOTEBOOK)
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell.outputs]
    assert all(o.output_type != "error" and o.get("name") != "stderr" for o in outputs)
    assert "widgets" not in NOTEBOOK.metadata and "widget-view" not in json.dumps(outputs)
    assert (ROOT / "sparse_autoencoders.ipynb").stat().st_size < 2_000_000


def test_every_picture_has_its_text_and_survives_a_sanitiser():
    described = r"!\[[^\]]{20,}\]\(data:image/png"
    texts = [cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown"]
    in_text = sum(text.count("data:image/png") for text in texts)
    assert in_text == sum(len(re.findall(described, text)) for text in texts)
    outputs = [o for c in CODE for o in c.outputs if "image/png" in o.get("data", {})]
    assert all(len(o.metadata["image/png"]["alt"]) > 20 for o in outputs)
    page = HTMLExporter(sanitize_html=True).from_notebook_node(NOTEBOOK)[0]
    shown = len(re.findall(r'<img[^>]*src="data:image/png', page))
    # nbconvert's sanitiser escapes whatever a Markdown cell holds, so those are counted as text
    assert shown == len(outputs) >= 12
    assert len(re.findall(r'img src="data:image/png', page)) == in_text >= 5


def test_headings_make_a_table_of_contents_and_two_lessons():
    text = "\n".join(c.source for c in NOTEBOOK.cells if c.cell_type == "markdown")
    headings = re.findall(r"(?m)^(#+) (.*)$", re.sub(r"(?s)```.*?```", "", text))
    assert [level for level, _ in headings].count("#") == 1
    sections = [title for level, title in headings if level == "##"]
    assert [title[:2] for title in sections[:8]] == [f"{i}." for i in range(1, 9)]
    assert [title[:12] for title in sections[8:]] == ["How far can ", "Exercises", "Quiz: ten qu"]
    assert all(len(level) <= 3 for level, _ in headings)
    for summary in re.findall(r"</summary>\n(.)", text):
        assert summary == "\n", "a folded text needs a blank line, or its Markdown stays raw"


def test_a_guard_stands_where_a_section_begins_and_nowhere_else():
    section, first, guarded = "", {}, {}
    for cell in NOTEBOOK.cells:
        if cell.cell_type == "markdown":
            titles = re.findall(r"(?m)^## (.*)$", cell.source)
            section = titles[-1] if titles else section
        elif section:
            first.setdefault(section, cell.id)
            if "This kernel is new" in cell.source:
                guarded.setdefault(section, []).append(cell.id)
                with pytest.raises(RuntimeError, match=r"This kernel is new: run sections? 1"):
                    run_cells(cell.id, names={})
    assert {title[0] for title in guarded} == set("234567H")
    assert all(ids[0] == first[title] for title, ids in guarded.items())


def test_no_shown_cell_is_longer_than_a_screen():
    """Without docstrings, comments, blank lines and lists of parameters."""
    for cell in CODE:
        if cell.metadata.get("cellView") != "form":
            body = re.sub(r'(?s)""".*?"""|(?<=def )\w+\(\n.*?\n\)', "", cell.source)
            lines = [line for line in body.splitlines() if line.strip() and line.strip()[0] != "#"]
            assert len(lines) <= 30, f"{cell.id}: {len(lines)} lines"


# What a number in the texts may be besides printed: arithmetic on the settings, or geometry.
KNOWN = {
    "sec2-end": {"1", "2"}, "sec3-end": {"0", "1"},
    "sec5-end": {"20", "0.9", "6"}, "chance-end": {"0.45", "0.76", "0.18", "0.33", "0.8"},
    "sec6-end": {"1", "−1", "64"}, "firing-end": {"1", "2", "4"}, "playground-end": set(),
    "curves-end": {"1"},
}  # fmt: skip


@pytest.mark.parametrize("cell_id", KNOWN)
def test_a_number_in_the_text_is_printed_above_it_or_follows_from_the_setting(cell_id):
    """So no sentence says what another seed would contradict."""
    text = re.sub(r"`[^`]*`|\$[^$]*\$|L0", "", CELLS[cell_id].source)
    numbers = set(re.findall(r"[-−]?\d+(?:[.,]\d+)*", text))
    above = itertools.takewhile(lambda cell: cell.id != cell_id, NOTEBOOK.cells)
    shown = " ".join(printed(cell.id) for cell in above if cell.cell_type == "code")
    assert {n for n in numbers if n not in shown} <= KNOWN[cell_id]


def test_the_chance_level_in_the_text_is_the_measured_one():
    text = CELLS["chance-end"].source
    for d, wanted in ((5, "0.76"), (30, "0.33")):
        truth = torch.cat([torch.eye(d)[:5], -torch.eye(d)[:5]])
        assert f"{np.nanmean(sae_lib.chance_cosines(truth, 20)):.2f}" == wanted
        spread = sae_lib.random_directions(20_000, d)[:, 0].std()
        assert wanted in text and f"±{spread:.2f}" in text


@pytest.fixture(scope="module")
def lesson() -> dict:
    """The names after section 6, with fast settings. Do not write to them: copy the dict."""
    return run_until("verdict", FAST)


def test_the_verdict_is_reached(lesson):
    assert lesson["verdict"].startswith("10 of 10 recovered, worst cosine 0.99")
    assert "1,200 steps" in lesson["verdict"] and "length 1.00 to 1.00" in lesson["verdict"]
    assert "λ = 0.001" in printed("verdict")


@pytest.mark.parametrize("optimize", [0, 2])  # 2: as under PYTHONOPTIMIZE, without asserts
def test_a_run_that_found_too_little_fails(optimize):
    settings = FAST | {"L1_COEFFICIENT": 0.0, "N_STEPS": 300}
    with pytest.raises(AssertionError, match=r"Expected all 10 .* but: [0-7] of 10 recovered"):
        run_until("verdict", settings, optimize=optimize, without=LOOKS | {"switch", "heatmap"})


def test_a_base_model_that_left_a_feature_out_stops_at_the_gate():
    weak = "train_toy_model(toy_model, seed=SEED)", "toy_model.W.data[:, 3] *= 0.1"
    with pytest.raises(AssertionError, match="the base model left a feature out"):
        run_until("gate", FAST, edits={"train-toy": weak}, optimize=2)


@pytest.mark.parametrize("name", ["SETTINGS", "sae", "toy_model"])
def test_the_verdict_refuses_settings_or_an_sae_that_the_run_did_not_have(lesson, name):
    other = lesson["SETTINGS"] | {"N_STEPS": 300} if name == "SETTINGS" else copy.copy(lesson[name])
    with pytest.raises(RuntimeError, match="made with other settings"):
        run_cells("verdict", names=lesson | {name: other})


def test_a_training_that_was_interrupted_leaves_the_last_whole_run_in_place(lesson):
    def interrupted(*args, **settings):
        raise KeyboardInterrupt

    names = lesson | {"train_sae": interrupted}
    with pytest.raises(KeyboardInterrupt):
        run_cells("run-training", names=names)
    assert names["run"] is lesson["run"] and names["sae"] is lesson["sae"]


def test_the_verdict_measures_the_norms_and_is_not_moved_by_edited_yardsticks(lesson):
    edits = {"matching": ("@ normalize(b, dim=1).T", "@ normalize(b, dim=1).T * 0 + 1")}
    names = run_cells("matching", names=dict(lesson), edits=edits)
    with torch.no_grad():
        names["sae"].W_dec[:] *= 2
    run_cells("verdict", names=names)
    with torch.no_grad():
        names["sae"].W_dec[:] /= 2
    assert "length 2.00 to 2.00" in names["verdict"] and "10 of 10" in names["verdict"]


def test_an_edited_loss_class_and_loop_are_used_by_every_later_cell(lesson):
    edits = {
        "sae-class": ("torch.relu(x @", "seen.add('class') or torch.relu(x @"),
        "loss": ("reconstruction = (", "seen.add('loss')\n    reconstruction = ("),
        "train-sae": ("history = Tr", "seen.add('loop')\n    history = Tr"),
    }
    names = lesson | {"seen": set(), "train_toy_models": lambda models, **settings: None}
    names |= {name: names[name] | {"n_steps": 3} for name in ("TRAINING", "FALLING_PRICE")}
    run_cells("sae-class", "loss", "train-sae", "knobs-code", names=names, edits=edits)
    for cell_id in ("run-training", "switch", "knobs", "b1", "b2", "b4", "topk", "b5"):
        names["seen"].clear()
        source = re.sub(r"(my_steps = |n_steps\W+)[\d_]+", r"\g<1>3", CELLS[cell_id].source)
        exec(source, names)
        plt.close("all")
        assert names["seen"] == ({"class", "loss", "loop"} if cell_id != "topk" else set()), cell_id


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("my_width = 0", "D_SAE must lie between 1"),
        ("my_lambda = -1", "L1_COEFFICIENT must lie between 0"),
        ('my_geometry = "30 in 5"', "'15 in 5' or '20 in 5', not '30 in 5'"),
    ],
)
def test_a_knob_that_cannot_work_is_refused_in_a_sentence(lesson, line, words):
    source = CELLS["knobs"].source
    (old,) = re.findall(rf"(?m)^{line.split()[0]} = .*$", source)
    names = run_cells("knobs-code", names=dict(lesson))
    with pytest.raises(ValueError, match=words):
        run_cells("knobs", names=names, edits={"knobs": (old, line)})


def in_a_folder(folder: Path) -> str:
    """What the library cell prints when the kernel runs in that folder, and where it went."""
    code = CELLS["library"].source + "\nimport sae_lib\nprint(sae_lib.__file__)"
    (folder / "cell.py").write_text(code, encoding="utf-8")
    return subprocess.check_output([sys.executable, "-I", "cell.py"], cwd=folder, text=True)


def test_a_whole_library_beside_it_is_used_and_else_its_own_copy(tmp_path):
    said = in_a_folder(tmp_path)
    assert "the notebook's own copy" in said and str(tmp_path) not in said
    library = shutil.copytree(ROOT / "sae_lib", tmp_path / "sae_lib")
    (library / "saving.py").rename(library / "storing.py")  # which it does not need
    said = in_a_folder(tmp_path)
    assert "the folder beside" in said and str(tmp_path) in said
    (library / "metrics.py").write_text("not python (")
    said = in_a_folder(tmp_path)
    assert "is left alone, as it fails:" in said and "own copy" in said
    assert (library / "metrics.py").read_text() == "not python ("


GOOD = {
    "SEED": 0, "N_FEATURES": 10, "N_HIDDEN": 5, "SPARSITY": 0.9, "D_SAE": 20,
    "L1_COEFFICIENT": 0.001, "N_STEPS": 8_000, "BATCH_SIZE": 256, "LEARNING_RATE": 0.03,
    "NORMALIZE_DECODER": True, "N_SAMPLES": 100_000, "RECOVERED": 0.99,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"SEED": 0.5}, TypeError, "SEED must be a whole number, but 0.5 came."),
        ({"D_SAE": True}, TypeError, "D_SAE must be a whole number, but True came."),
        ({"NORMALIZE_DECODER": 1}, TypeError, "NORMALIZE_DECODER must be True or False"),
        ({"L1_COEFFICIENT": "0.1"}, TypeError, "L1_COEFFICIENT must be a number"),
        ({"SPARSITY": 1.0}, ValueError, "SPARSITY must lie between 0 and 0.999; 1.0 came."),
        ({"L1_COEFFICIENT": float("nan")}, ValueError, "L1_COEFFICIENT must lie between"),
        ({"LEARNING_RATE": float("inf")}, ValueError, "LEARNING_RATE must lie between"),
        ({"N_STEPS": 1}, ValueError, "N_STEPS must lie between 2 and"),
        ({"D_SAE": 10_000, "N_SAMPLES": 10**7}, ValueError, "need about 2235 GiB of memory"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_in_one_sentence(change, error, said):
    assert check_settings(GOOD | {"other": 1, "D_SAE": np.int64(20)}) == GOOD
    with pytest.raises(error, match=re.escape(said)):
        check_settings(GOOD | change)

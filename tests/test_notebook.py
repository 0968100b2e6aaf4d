"""The notebooks: in step with the library, self-sufficient, and honest when they fail."""

import base64
import copy
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from nbconvert import HTMLExporter

from sae_lib import SparseAutoencoder, ToyModel, chance_cosines, random_directions, train_sae
from sae_lib.lesson import verdict
from tests.measured import shown
from tools import sync_notebook as sync
from tools.run_notebook import LESSONS, ROOT

BOTH = {path.stem: nbformat.read(path, as_version=4) for path in LESSONS}
LESSON, TRUST = BOTH.values()
CELLS = {cell.id: cell for cell in LESSON.cells}
# all ten are found with these in a second, by the same cells
FAST = {"L1_COEFFICIENT": 0.01, "N_STEPS": 1_200, "N_SAMPLES": 10_000}
# cells before the verdict that only show something
LOOKS = {"neurons", "curves-error", "curves-l0", "curves-found", "chance", "switch"}
PICTURE = re.compile(r"base64,[\w+/=]+")
pytestmark = pytest.mark.usefixtures("displayed")
both = pytest.mark.parametrize("notebook", BOTH.values(), ids=BOTH)


def code_of(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


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
    last: str, settings: dict, *, edits=None, optimize=0, without=LOOKS, notebook=LESSON
) -> dict:
    """The code cells up to `last`, with lines of the settings cell replaced."""
    names: dict = {}
    for cell in code_of(notebook):
        source = set_lines(cell.source, settings) if cell.id in ("constants", "setup") else ""
        if source:
            exec(source, names)
        elif cell.id not in {"library", "playground"} | without:
            old, new = (edits or {}).get(cell.id, ("", ""))
            assert old in cell.source
            code = compile(cell.source.replace(old, new), cell.id, "exec", optimize=optimize)
            exec(code, names)
            plt.close("all")
        if cell.id == last:
            return names
    raise LookupError(last)


def set_lines(source: str, settings: dict) -> str:
    """The source with each `NAME = …` replaced, up to a comment."""
    for name, value in settings.items():
        source, n = re.subn(rf"(?m)^{name} = .*?(?=  #|$)", f"{name} = {value}", source)
        assert n == 1, f"the cell does not set {name}"
    return source


@both
def test_what_is_generated_is_what_the_library_and_the_stored_numbers_give(notebook):
    kinds = set()
    for cell in notebook.cells:
        if found := sync.SHOWN.search(cell.source):
            kinds.add("shown")
            stored = cell.source[found.end() :].strip("\n")
            assert stored == sync.shown_source(*found.groups())
        if found := sync.DRAWN.search(cell.source):
            kinds.add(found[1])  # a picture is not drawn again, as other fonts draw other pixels
            assert PICTURE.sub("", sync.drawn(*found.groups())) == PICTURE.sub("", found.group())
    assert kinds == {"shown", "figure", "evidence"}


@both
def test_the_notebook_carries_the_library_as_it_stands(notebook):
    (source,) = (c.source for c in notebook.cells if c.id == "library")
    assert max(map(len, source.splitlines())) < 10_000  # VS Code wraps all lines if one is longer
    packed = "".join(re.findall('"(.*)"', sync.LIBRARY.search(source).group()))
    with tarfile.open(fileobj=io.BytesIO(base64.b85decode(packed))) as tar:
        carried = {name: tar.extractfile(name).read() for name in tar.getnames()}
    paths = [p for p in (ROOT / "sae_lib").rglob("*.*") if p.suffix in (".py", ".html")]
    assert carried == {p.relative_to(ROOT).as_posix(): p.read_bytes() for p in paths}


@both
def test_the_saved_outputs_are_of_this_code_from_top_to_bottom_and_clean(notebook):
    nbformat.validate(notebook)
    code = code_of(notebook)
    assert notebook.metadata["outputs_of"] == sync.code_hash(notebook)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert all(o.output_type != "error" and o.get("name") != "stderr" for o in outputs)
    assert "widgets" not in notebook.metadata and "widget-view" not in json.dumps(outputs)
    assert len(nbformat.writes(notebook)) < 2_000_000


@both
def test_every_picture_has_its_text_and_survives_a_sanitiser(notebook):
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    in_text = sum(text.count("data:image/png") for text in texts)
    assert in_text == sum(len(re.findall(r'<img alt="[^"]{20,}" width="\d+" ', t)) for t in texts)
    outputs = [o for c in code_of(notebook) for o in c.outputs if "image/png" in o.get("data", {})]
    assert all(len(o.metadata["image/png"]["alt"]) > 20 for o in outputs)
    page = HTMLExporter(sanitize_html=True).from_notebook_node(notebook)[0]
    # nbconvert's sanitiser escapes whatever a Markdown cell holds, so those are counted as text
    assert len(re.findall(r'<img[^>]*src="data:image/png', page)) == len(outputs) > 0
    assert page.split("<body")[1].count("data:image/png;base64") == in_text + len(outputs)


@both
def test_headings_make_a_table_of_contents(notebook):
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    headings = re.findall(r"(?m)^(#+) (.*)$", re.sub(r"(?s)```.*?```", "", text))
    assert [level for level, _ in headings].count("#") == 1
    assert all(len(level) <= 3 for level, _ in headings)
    if notebook is LESSON:
        sections = [title for level, title in headings if level == "##"]
        assert [title[:2] for title in sections[:8]] == [f"{i}." for i in range(1, 9)]
    for summary in re.findall(r"</summary>\n(.)", text):
        assert summary == "\n", "a folded text needs a blank line, or its Markdown stays raw"


NUMBER = re.compile(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?!\w)")
# What a number in the prose may be besides one that the notebook shows, or a count up to twelve:
# years and sizes of papers, settings of exercises, arithmetic, and what another test measures.
KNOWN = {
    "chance-end": "0.18 0.33 0.45 0.76 0.8", "chance-text": "200", "sec6-end": "0.76",
    "luck-text": "0.03", "directions-end": "25 40", "splice-more": "100",
    "sec8-more": "2023 2025", "real-models": "2024 2048",
    "reading": "2022 2023 2024 2025 34 200", "ex-cheat-text": "1.000",
    "ex-dead-text": "0.15 2023 2024 400 64", "ex-project-text": "100 10000",
    "k-end": "131000", "rare-end": "71", "first-sae": "160", "ex-lambda-text": "0.05 3000",
    "quiz": "0.005 0.33 0.76 0.8 30 87 88",
}  # fmt: skip


def numbers(text: str) -> set[str]:
    return {number.replace(",", "") for number in NUMBER.findall(text.replace("_", ""))}


@both
def test_a_number_in_the_text_is_shown_in_the_notebook(notebook):
    is_drawn = {cell.id: bool(sync.DRAWN.search(cell.source)) for cell in notebook.cells}
    shows = [PICTURE.sub("", c.source) for c in notebook.cells if is_drawn[c.id]]
    for cell in code_of(notebook):
        without_html = [o for o in cell.outputs if "text/html" not in o.get("data", {})]
        code = "" if cell.id == "library" else re.sub(r"#.*|seed=\d+", "", cell.source)
        shows += [shown(without_html), code]
    known = numbers(" ".join(shows))
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and not is_drawn[cell.id]:
            no_prose = r"(?s)\[\d{4}\.\d{5}|\]\([^)]*\)|```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$"
            said = {n for n in numbers(re.sub(no_prose, "", cell.source)) if n not in known}
            said = {n for n in said if not (n.isdigit() and int(n) <= 12)}
            assert said <= set(KNOWN.get(cell.id, "").split()), cell.id


def test_the_chance_level_in_the_text_is_the_measured_one():
    text = CELLS["chance-end"].source
    for d, wanted in ((5, "0.76"), (30, "0.33")):
        pairs = torch.cat([torch.eye(d)[:5], -torch.eye(d)[:5]])
        assert f"{chance_cosines(pairs, 20).mean():.2f}" == wanted
        assert wanted in text and f"±{random_directions(20_000, d)[:, 0].std():.2f}" in text


@pytest.fixture(scope="module")
def lesson(displayed) -> dict:
    """The names after section 6, with fast settings. Do not write to them: copy the dict."""
    return run_until("verdict", FAST)


def test_the_verdict_is_reached(lesson, displayed):
    run_cells("verdict", names=dict(lesson))
    said = displayed[-1]["text/plain"]
    assert said.startswith("10 of 10 recovered\nworst cosine 0.99")
    assert "1,200 steps" in said and "length 1.00 to 1.00" in said and "λ = 0.01" in said
    assert all(line in displayed[-1]["text/html"] for line in said.splitlines())
    assert {"toy_model", "activations", "sae", "cosines", "matches"} <= lesson.keys()


def judged(lesson: dict, **changes) -> str:
    """What the verdict says, or why it fails, of what is in `lesson` with these changes."""
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdict, "display", lambda data, **options: shown.append(data["text/plain"]))
        try:
            run_cells("verdict", names=lesson | changes)
        except AssertionError as error:
            return f"FAILED {error}"
    return shown[-1]


def with_sae(history, change) -> object:
    history = copy.copy(history)
    history.sae = copy.deepcopy(history.sae)
    with torch.no_grad():
        change(history.sae)
    return history


def test_the_verdict_speaks_of_what_was_trained_and_not_of_the_settings_cell(lesson):
    said = judged(lesson, SEED=5, SPARSITY=0.0, N_FEATURES=3, L1_COEFFICIENT=7, N_STEPS=1, D_SAE=2)
    assert said == judged(lesson) and "sparsity 0.9, seed 0" in said
    edits = {"run-training": ("l1_coefficient=L1_COEFFICIENT, n_steps=N_STEPS", "**FALLING_PRICE")}
    names = run_cells("run-training", names=dict(lesson), edits=edits)
    assert "λ = 0.03 falling to 0.001, 2,500 steps of 128" in judged(names)


@pytest.mark.parametrize(
    "change",
    [
        lambda sae: sae.b_enc.fill_(-9.0),  # all are dead
        lambda sae: sae.W_enc.copy_(sae.W_enc.roll(1, dims=1)),  # each reads another's direction
        lambda sae: sae.W_dec.neg_(),
    ],
)
def test_a_direction_that_does_not_fire_with_its_feature_is_not_found(lesson, change):
    said = judged(lesson, history=with_sae(lesson["history"], change))
    assert re.match(r"FAILED Expected all 10 features, got this:\n[0-5] of 10 recovered", said)


def test_a_run_that_found_too_little_fails_even_without_asserts():
    settings = FAST | {"L1_COEFFICIENT": 0.0, "N_STEPS": 300}
    with pytest.raises(AssertionError, match=r"Expected all 10 .*\n[0-7] of 10 recovered"):
        run_until("verdict", settings, optimize=2, without=LOOKS | {"heatmap"})


def test_a_threshold_that_chance_reaches_proves_nothing(lesson):
    def tilt(sae):  # each row to a cosine of 0.78 with what it was, and less than 0.7 with others
        aside = random_directions(20, 5, seed=3)
        aside -= (aside * sae.W_dec).sum(dim=1, keepdim=True) * sae.W_dec
        sae.W_dec.mul_(0.78).add_(0.626 * aside / aside.norm(dim=1, keepdim=True))

    said = judged(lesson, history=with_sae(lesson["history"], tilt), RECOVERED=0.7)
    assert said.startswith("FAILED") and "cosine 0.7 or more" in said
    assert "Random directions come close" in said


def test_the_verdict_says_what_was_found_before_this_training(lesson):
    assert "from a start that had 0 of 10" in judged(lesson)
    sae, pool = copy.deepcopy(lesson["sae"]), lesson["activations"]
    again = lesson["train_sae"](sae, pool, l1_coefficient=0.0, n_steps=1, lr=1e-9)
    said = judged(lesson, history=again)
    assert "λ = 0.0, 1 steps of 256, from a start that had 10 of 10" in said


def test_in_one_dimension_chance_finds_all():
    toy_model, sae = ToyModel(2, 1), SparseAutoencoder(1, 4)
    with torch.no_grad():
        toy_model.W.copy_(torch.tensor([[1.0, -1.0]]))
    x = toy_model.encode(toy_model.sample_features(2_000)).detach()
    history = train_sae(sae, x, n_steps=300)
    with pytest.raises(AssertionError, match="Random directions come close"):
        verdict.show_verdict(history, toy_model)


def test_an_edited_yardstick_moves_neither_the_verdict_nor_chance(lesson):
    edits = {"matching": ("maximize=True", "maximize=False")}
    names = run_cells("matching", "heatmap", "chance", names=dict(lesson), edits=edits)
    assert names["matches"].cosine.min() < 0 and names["judgement"].found.all()
    assert judged(names) == judged(lesson)


def test_a_toy_model_that_left_a_feature_out_stops_the_lesson():
    weak = "train_toy_model(toy_model, seed=SEED)", "toy_model.W.data[:, 3] *= 0.1"
    with pytest.raises(AssertionError, match="left a feature out"):
        run_until("gram", FAST, edits={"train-toy": weak}, optimize=2)


def test_an_edited_loss_class_and_loop_are_used_by_every_later_cell(lesson):
    edits = {
        "sae-class": ("torch.relu(x @", "seen.add('class') or torch.relu(x @"),
        "loss": ("reconstruction = (", "seen.add('loss')\n    reconstruction = ("),
        "train-sae": ("schedule = t", "seen.add('loop')\n    schedule = t"),
    }
    names = lesson | {"seen": set(), "train_toy_models": lambda models, **settings: None}
    names["FALLING_PRICE"] = names["FALLING_PRICE"] | {"n_steps": 3}
    names["N_STEPS"] = 3
    run_cells("loss", "sae-class", "train-sae", "knobs-code", names=names, edits=edits)
    for cell_id in ("run-training", "switch", "knobs", "luck"):
        names["seen"].clear()
        source = re.sub(r"(my_steps = |n_steps=)[\d_]+", r"\g<1>3", CELLS[cell_id].source)
        exec(source, names)
        plt.close("all")
        assert names["seen"] == {"class", "loss", "loop"}, cell_id


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("my_width = 0", "number of directions: expected 1 to"),
        ("my_lambda = -1", "l1_coefficient: expected 0 to"),
        ('my_geometry = "30 in 5"', "expected one of as in the lesson, 15 in 5, 20 in 5, got"),
    ],
)
def test_a_knob_that_cannot_work_is_refused_in_a_sentence(lesson, line, words):
    source = CELLS["knobs"].source
    (old,) = re.findall(rf"(?m)^{line.split()[0]} = .*$", source)
    names = run_cells("knobs-code", names=dict(lesson))
    with pytest.raises(ValueError, match=words):
        run_cells("knobs", names=names, edits={"knobs": (old, line)})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"SEED": 0.5}, "seed: expected a whole number, got 0.5"),
        ({"N_FEATURES": 10_000}, "n_features: expected 1 to 1,000, got 10,000"),
        ({"SPARSITY": 1.0}, "sparsity: expected 0 to 0.999, got 1"),
        ({"L1_COEFFICIENT": 1e30}, r"l1_coefficient: expected 0 to 1e\+06, got 1e\+30"),
        ({"N_STEPS": 0}, "n_steps: expected 1 to"),
        ({"D_SAE": True}, "the number of directions: expected a whole number, got True"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_where_it_is_first_used(settings, words):
    quick = "train_toy_model(toy_model, seed=SEED)", ""
    with pytest.raises((TypeError, ValueError), match=words):
        run_until(
            "run-training",
            FAST | settings,
            edits={"train-toy": quick},
            without=LOOKS | {"gram"},
        )


def in_a_folder(folder: Path) -> subprocess.CompletedProcess:
    """The library cell when the kernel runs in that folder, and where the library came from."""
    code = CELLS["library"].source + "\nprint(sae_lib.__file__)"
    (folder / "cell.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-I", "cell.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_library_beside_it_is_used_and_fails_loudly_if_broken_and_else_its_own_copy(tmp_path):
    said = in_a_folder(tmp_path).stdout
    assert "its own copy" in said and str(tmp_path) not in said
    library = shutil.copytree(ROOT / "sae_lib", tmp_path / "sae_lib")
    said = in_a_folder(tmp_path).stdout
    assert "the folder beside" in said and str(tmp_path) in said
    (library / "metrics.py").write_text("not python (")
    broken = in_a_folder(tmp_path)
    assert broken.returncode and "metrics.py" in broken.stderr
    assert (library / "metrics.py").read_text() == "not python ("

"""The notebooks: in step with the library, self-sufficient, and honest when they fail."""

import base64
import copy
import io
import re
import subprocess
import sys
import tarfile

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch

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
pytestmark = pytest.mark.usefixtures("displayed")
both = pytest.mark.parametrize("notebook", BOTH.values(), ids=BOTH)


def code_of(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def run(
    ids, names: dict | None = None, *, notebook=LESSON, edits: dict | None = None, optimize=0
) -> dict:
    """Run these cells in `names`; edits: cell id -> (old text, new text), as a learner would."""
    names = {} if names is None else names
    sources = {cell.id: cell.source for cell in notebook.cells}
    for cell_id in ids:
        old, new = (edits or {}).get(cell_id, ("", ""))
        assert old in sources[cell_id]
        source = sources[cell_id].replace(old, new)
        exec(compile(source, cell_id, "exec", optimize=optimize), names)
        plt.close("all")
    return names


def run_until(
    last: str, settings: dict, *, notebook=LESSON, without=LOOKS, edits=None, optimize=0
) -> dict:
    """The code cells up to `last`, with lines of the settings cell replaced."""
    ids = [cell.id for cell in code_of(notebook) if cell.id not in {"library", "playground"}]
    (first,) = {"constants", "setup"} & {*ids}
    (source,) = (cell.source for cell in notebook.cells if cell.id == first)
    edits = (edits or {}) | {first: (source, set_lines(source, settings))}
    ids = [cell_id for cell_id in ids[: ids.index(last) + 1] if cell_id not in without]
    return run(ids, notebook=notebook, edits=edits, optimize=optimize)


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
            kinds.add(found[1])  # its pixels are not compared: other fonts draw others
            assert sync.drawn(found) == found[0], found[2]
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
    assert len(nbformat.writes(notebook)) < 2_000_000


NUMBER = re.compile(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?!\w)")
# What a number in the prose may be besides one that the notebook shows, or a count up to twelve:
# years and sizes of papers, settings of exercises, arithmetic, and what another test measures.
KNOWN = {
    "price-predict": "45",
    "chance-end": "0.18 0.33 0.45 0.76 0.8", "chance-text": "200", "sec6-end": "0.76",
    "luck-text": "0.03", "directions-end": "25 40", "splice-more": "0.05 100",
    "sec8-more": "2023 2025", "real-models": "2024 2048",
    "reading": "2022 2023 2024 2025 34 200", "ex-cheat-text": "1.000",
    "ex-dead-text": "0.15 2023 2024 400 64", "ex-project-text": "100 10000",
    "k-noise-end": "131000", "rare-end": "71", "first-sae": "160", "ex-lambda-text": "0.05 3000",
    "quiz": "0.005 0.33 0.76 0.8 30 45 87 88",
}  # fmt: skip


def numbers(text: str) -> set[str]:
    return {number.replace(",", "") for number in NUMBER.findall(text.replace("_", ""))}


@both
def test_a_number_in_the_text_is_shown_in_the_notebook(notebook):
    is_drawn = {cell.id: bool(sync.DRAWN.search(cell.source)) for cell in notebook.cells}
    shows = [sync.PICTURE.sub("", c.source) for c in notebook.cells if is_drawn[c.id]]
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


def judged(lesson: dict, **changes) -> str:
    """What the verdict says, or why it fails, of what is in `lesson` with these changes."""
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdict, "display", lambda data, **options: shown.append(data))
        try:
            run(["verdict"], lesson | changes)
        except AssertionError as error:
            return f"FAILED {error}"
    said = shown[-1]["text/plain"]
    assert all(line in shown[-1]["text/html"] for line in said.splitlines())
    return said


def test_the_verdict_speaks_of_what_was_trained_and_not_of_the_settings_cell(lesson):
    said = judged(lesson, SEED=5, SPARSITY=0.0, N_FEATURES=3, L1_COEFFICIENT=7, N_STEPS=1, D_SAE=2)
    assert said.startswith("10 of 10 recovered\nworst cosine 0.99")
    assert "length 1.00 to 1.00" in said and "sparsity 0.9, seed 0" in said
    assert "λ = 0.01, 1,200 steps of 256, from a start that had 0 of 10" in said
    sae, settings = copy.deepcopy(lesson["sae"]), lesson["FALLING_PRICE"]
    again = train_sae(sae, lesson["activations"], **settings | {"n_steps": 3, "lr": 1e-9})
    falling = "λ = from 0.03 to 0.001, 3 steps of 128, from a start that had 10 of 10"
    assert falling in judged(lesson, history=again)


def tilt(sae, along):
    """Each row to a cosine of 0.78 with what it was, and of less than 0.7 with the others."""
    aside = random_directions(20, 5, seed=3)
    aside -= (aside * sae.W_dec).sum(dim=1, keepdim=True) * sae.W_dec
    sae.W_dec.mul_(0.78).add_(0.626 * aside / aside.norm(dim=1, keepdim=True))


@pytest.mark.parametrize(
    ("change", "at", "words"),
    [
        (lambda sae, along: sae.b_enc.masked_fill_(along, -9.0), 0.99, "9 of 10 recovered"),
        # each latent reads another's direction
        (lambda sae, along: sae.W_enc.copy_(sae.W_enc.roll(1, dims=1)), 0.99, "[0-5] of 10 rec"),
        (lambda sae, along: sae.W_dec.neg_(), 0.99, "[0-5] of 10 recovered"),
        (tilt, 0.7, r"10 of 10 recovered(.|\n)*cosine 0.7 or more"),
    ],
)
def test_the_verdict_is_not_fooled(lesson, change, at, words):
    history = copy.copy(lesson["history"])
    history.sae = copy.deepcopy(history.sae)
    with torch.no_grad():
        change(history.sae, lesson["cosines"][:, 0] >= 0.99)  # the latents along feature 0
    said = judged(lesson, history=history, RECOVERED=at)
    why = "Random directions come close" if change is tilt else "Expected all 10 features"
    assert re.match(f"FAILED {why}.*\n{words}", said)


def test_a_run_that_found_too_little_fails_even_without_asserts():
    settings = FAST | {"L1_COEFFICIENT": 0.0, "N_STEPS": 300}
    with pytest.raises(AssertionError, match=r"Expected all 10 .*\n[0-7] of 10 recovered"):
        run_until("verdict", settings, optimize=2, without=LOOKS | {"heatmap"})


def test_in_one_dimension_chance_finds_all():
    toy_model = ToyModel(2, 1)
    toy_model.W.data = torch.tensor([[1.0, -1.0]])
    x = toy_model.encode(toy_model.sample_features(2_000))
    history = train_sae(SparseAutoencoder(1, 4), x, n_steps=1)
    with pytest.raises(AssertionError, match="Random directions come close"):
        verdict.show_verdict(history, toy_model)


def test_an_edited_yardstick_moves_neither_the_verdict_nor_chance(lesson):
    edits = {"matching": ("maximize=True", "maximize=False")}
    names = run(["matching", "heatmap", "chance"], dict(lesson), edits=edits)
    assert names["matches"].cosine.min() < 0 and names["judgement"].found.all()
    assert judged(names) == judged(lesson)


def test_a_toy_model_that_left_a_feature_out_stops_the_lesson():
    weak = "train_toy_model(toy_model, seed=SEED)", "toy_model.W.data[:, 3] *= 0.1"
    with pytest.raises(AssertionError, match="left a feature out"):
        run_until("pairs", FAST, edits={"train-toy": weak}, optimize=2)


def test_an_edited_loss_class_and_loop_are_used_by_every_later_cell(lesson):
    edits = {
        "sae-class": ("torch.relu(x @", "seen.add('class') or torch.relu(x @"),
        "loss": ("reconstruction = (", "seen.add('loss')\n    reconstruction = ("),
        "train-sae": ("schedule = t", "seen.add('loop')\n    schedule = t"),
    }
    names = lesson | {"seen": set(), "train_toy_models": lambda models, **settings: None}
    names |= {"FALLING_PRICE": lesson["FALLING_PRICE"] | {"n_steps": 3}, "N_STEPS": 3}
    run(["loss", "sae-class", "train-sae", "knobs-code"], names, edits=edits)
    for cell_id in ("run-training", "switch", "knobs", "luck"):
        names["seen"].clear()
        exec(re.sub(r"(my_steps = |n_steps=)[\d_]+", r"\g<1>3", CELLS[cell_id].source), names)
        plt.close("all")
        assert names["seen"] == {"class", "loss", "loop"}, cell_id


def test_a_library_beside_it_is_used_and_fails_loudly_if_broken_and_else_its_own_copy(tmp_path):
    def in_the_folder() -> subprocess.CompletedProcess:
        """The library cell when the kernel runs there, and where the library came from."""
        code = CELLS["library"].source + "\nprint(sae_lib.__file__)"
        command, how = [sys.executable, "-I", "-"], {"capture_output": True, "text": True}
        return subprocess.run(command, input=code, cwd=tmp_path, **how)

    said = in_the_folder().stdout
    assert "its own copy" in said and str(tmp_path) not in said
    library = tmp_path / "sae_lib" / "__init__.py"
    library.parent.mkdir()
    library.touch()
    said = in_the_folder().stdout
    assert "the folder beside" in said and str(tmp_path) in said
    library.write_text("not python (", encoding="utf-8")
    broken = in_the_folder()
    assert broken.returncode and str(library) in broken.stderr

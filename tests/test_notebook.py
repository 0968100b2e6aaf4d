"""The notebook itself: in step with the library, self-sufficient, and honest when it fails."""

import ast
import importlib.util
import io
import json
import os
import re
import shutil
import sys
import tempfile
import tokenize
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from nbclient import NotebookClient

import sae_lib
from experiments.pages import PAGES
from sae_lib.lesson import names

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = nbformat.read(ROOT / "sparse_autoencoders.ipynb", as_version=4)
CELLS = {cell.id: cell for cell in NOTEBOOK.cells}
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]

spec = importlib.util.spec_from_file_location("sync_notebook", ROOT / "tools" / "sync_notebook.py")
sync = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sync)


def printed(cell_id: str, notebook: nbformat.NotebookNode = NOTEBOOK) -> str:
    """What a cell printed, in the saved or another run."""
    cell = next(c for c in notebook.cells if c.id == cell_id)
    return "".join(o.text for o in cell.outputs if o.output_type == "stream")


def _run_cells(changes: dict[str, str], until: str, *, edits=None, but=(), times=1) -> dict:
    """Run the code cells up to `until` in this process, with lines of the constants replaced.

    edits: cell id -> (old text, new text), what a learner would change in that cell. but: cells
    to leave out.
    """
    namespace = {}
    for cell in CODE:
        source = cell.source
        for old, new in [(edits or {}).get(cell.id, ("", ""))]:
            assert old in source
            source = source.replace(old, new)
        if cell.id == "constants":
            for name, value in changes.items():
                source, n = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value}", source)
                assert n == 1, f"the constants cell does not set {name}"
        if cell.id not in {"library", "race", *but} and not cell.id.startswith("ex-"):
            for _ in range(times):
                exec(compile(source, cell.id, "exec"), namespace)
        if cell.id == until:
            return namespace
    raise LookupError(until)


# --- the file ---------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [c for c in CODE if "sae_lib" in c.metadata], ids=lambda c: c.id)
def test_shown_code_is_the_librarys_code(cell):
    first = "sae_lib_first" in cell.metadata
    assert cell.source == sync.shown_source(cell.metadata["sae_lib"], first)


def test_the_embedded_library_is_the_library():
    assert sync.unpack(CELLS["library"].source) == sync.library_files()


@pytest.mark.parametrize("page", sorted(PAGES))
def test_the_generated_tables_and_figures_are_those_of_the_stored_numbers(page):
    (cell,) = [c for c in NOTEBOOK.cells if c.metadata.get("experiment") == page]
    picture = re.compile(r"base64,[\w+/=]+")  # other fonts or versions draw other pixels
    assert picture.sub("", cell.source) == picture.sub("", PAGES[page]())


def test_the_notebook_is_valid_and_was_run_from_top_to_bottom():
    nbformat.validate(NOTEBOOK)
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))


def test_saved_outputs_hold_no_error_no_stderr_and_no_widget():
    outputs = [output for cell in CODE for output in cell.outputs]
    assert all(o.output_type != "error" and o.get("name") != "stderr" for o in outputs)
    assert "widgets" not in NOTEBOOK.metadata
    assert "widget-view" not in json.dumps(outputs)


def test_the_file_stays_under_two_megabytes():
    assert (ROOT / "sparse_autoencoders.ipynb").stat().st_size < 2_000_000


def test_every_picture_has_an_alternative_text():
    texts = [cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown"]
    pages = [o.data.get("text/html", "") for c in CODE for o in c.outputs if "data" in o]
    for script in re.findall(r"(?s)<script[^>]*>(.*?)</script>", "".join(pages)):
        assert all(len(frame["alt"]) > 20 for frame in json.loads(script))
    texts += [re.sub(r"(?s)<script.*?</script>", "", page) for page in pages]
    described = r'alt="[^"]{20,}"[^>]*data:image/png|!\[[^\]]{20,}\]\(data:image/png'
    for text in texts:
        assert text.count("data:image/png") == len(re.findall(described, text))
    # and no plain PNG output, whose description front ends drop
    assert not any("image/png" in o.get("data", {}) for c in CODE for o in c.outputs)


def test_headings_make_a_table_of_contents():
    text = "\n".join(c.source for c in NOTEBOOK.cells if c.cell_type == "markdown")
    headings = re.findall(r"(?m)^(#+) (.*)$", re.sub(r"(?s)```.*?```", "", text))
    assert [level for level, _ in headings].count("#") == 1
    sections = [title for level, title in headings if level == "##"]
    assert [title[:2] for title in sections[:8]] == [f"{i}." for i in range(1, 9)]
    assert all(len(level) <= 3 for level, _ in headings)


def test_folded_markdown_has_the_blank_line_it_needs():
    for cell in NOTEBOOK.cells:
        assert not re.search(r"</summary>\n[^\n]", cell.source), cell.id
        assert cell.source.count("<details>") == cell.source.count("</details>"), cell.id


def test_the_folded_cell_takes_less_than_a_screen_where_nothing_folds():
    assert len(CELLS["library"].source.splitlines()) < 60
    assert CELLS["library"].metadata.cellView == "form"
    assert CELLS["library"].metadata.jupyter.source_hidden


# --- the file: what a reader meets --------------------------------------------------------


def code_lines(source: str) -> int:
    """Lines that do something: no blank lines, comments, docstrings or lists of parameters."""
    tree = ast.parse(source)
    text = {
        line
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node)
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    text |= {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for line in range(node.lineno + 1, node.body[0].lineno)
    }
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    quiet.add(tokenize.ENDMARKER)
    lines = set()
    for token in tokens:
        if token.type not in quiet:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - text)


@pytest.mark.parametrize("cell", CODE, ids=lambda c: c.id)
def test_no_shown_cell_is_long(cell):
    assert code_lines(cell.source) <= (40 if "cellView" in cell.metadata else 25)


def test_the_table_of_names_is_that_of_the_notebook():
    assert sync.made_in(NOTEBOOK) == names.MADE_IN
    assert names.MADE_IN["matches"].startswith("6.")


def without_what_sanitisers_remove(page: str) -> str:
    page = re.sub(r"(?s)<script.*?</script>", "", page)
    return re.sub(r"<input[^>]*>|style=\"[^\"]*\"", "", page)


@pytest.mark.parametrize("cell_id", ["race", "b3"])
def test_a_sanitised_slider_leaves_one_picture_with_its_text(cell_id):
    page = next(o.data["text/html"] for o in CELLS[cell_id].outputs if "data" in o)
    assert page.count("data:image/png") > 10
    left = without_what_sanitisers_remove(page)
    assert left.count("<img") == left.count("data:image/png") == 1
    assert re.search(r'alt="[^"]{20,}"', left)


# --- running it ---------------------------------------------------------------------------

QUICK = {"N_STEPS": "300", "N_SAMPLES": "5_000"}


@pytest.fixture
def run_cells(own_library):
    """The runner; afterwards the library is its own again."""
    yield _run_cells
    plt.close("all")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"L1_COEFFICIENT": "0.0", "N_STEPS": "2_000"}, r"\d of 10"),
        ({"N_STEPS": "800"}, r"\d of 10"),
        ({"NORMALIZE_DECODER": "False", "N_STEPS": "2_000"}, r"\d of 10"),
        ({"D_SAE": "8", "N_STEPS": "500"}, r"\d of 10.* 2 features have no latent of their own"),
    ],
    ids=["no L1", "too few steps", "no unit norm and fewer steps", "fewer latents than features"],
)
def test_a_broken_setting_fails_the_verdict_with_a_sentence(run_cells, changes, found):
    with pytest.raises(AssertionError, match=rf"Expected all 10 features .* but: {found}") as error:
        run_cells(changes, until="verdict")
    assert "-1" not in str(error.value)


def test_a_verdict_that_chance_would_reach_is_refused(run_cells):
    one = {"N_FEATURES": "1", "N_HIDDEN": "1", **QUICK}
    with pytest.raises(AssertionError, match="Random directions pass as well"):
        run_cells(one, until="verdict")


def test_a_verdict_states_its_settings(run_cells):
    changes = {"SEED": "3", "N_SAMPLES": "20_000"}
    seed_three = run_cells(changes, until="verdict", but={"no-penalty"})
    assert re.match(r"10 of 10 recovered, worst cosine 0\.99", seed_three["verdict"])
    assert "λ = 0.001, 8,000 steps of 256, 20 latents" in seed_three["verdict"]
    assert "seed 3" in seed_three["verdict"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"SEED": "None"}, "SEED must be an int"),
        ({"SEED": '"zero"'}, "SEED must be an int"),
        ({"SEED": "1.5"}, "SEED must be an int"),
        ({"SEED": "2**70"}, "SEED must lie between"),
        ({"SPARSITY": '"high"'}, "SPARSITY must be a number"),
        ({"SPARSITY": "1.0"}, "SPARSITY must lie in"),
        ({"RECOVERED": "None"}, "RECOVERED must be a number"),
        ({"RECOVERED": "99"}, "RECOVERED must lie in"),
        ({"NORMALIZE_DECODER": '"no"'}, "NORMALIZE_DECODER must be True or False"),
        ({"SEED": "2**32"}, r"SEED must be at most 2\*\*31"),
        ({"N_STEPS": "1"}, "N_STEPS must be at least 2"),
        ({"BATCH_SIZE": "10**10"}, "GiB of memory"),
        ({"N_SAMPLES": "1"}, "N_SAMPLES must be at least"),
        ({"D_SAE": "10**9"}, "of memory"),
        ({"D_SAE": "0"}, "D_SAE must be at least 1"),
        ({"L1_COEFFICIENT": "-1"}, "L1_COEFFICIENT must be finite and not negative"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_work_is_refused_at_its_cell(run_cells, changes, words):
    with pytest.raises((TypeError, ValueError), match=words) as error:
        run_cells(changes, until="constants")
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("changes", [{"D_SAE": "40"}, {"N_FEATURES": "9"}], ids=str)
def test_what_anyone_changes_first_reaches_section_6(run_cells, changes):
    run_cells({**QUICK, **changes}, until="chance")


def test_every_cell_may_be_run_twice(run_cells):
    once = run_cells(QUICK, until="chance")
    twice = run_cells(QUICK, until="chance", times=2)
    assert (once["latent_acts"] == twice["latent_acts"]).all()
    assert (once["cosines"] == twice["cosines"]).all()


def test_an_edited_loss_holds_everywhere_below(run_cells):
    """Mean for sum over the coordinates: the error counts a fifth."""
    mean = ("(x_hat - x).square().sum(dim=-1)", "(x_hat - x).square().mean(dim=-1)")
    mine = run_cells(QUICK, until="matching", edits={"loss": mean})
    x, untouched = mine["activations"][:500], torch.zeros(500, 5)
    for loss in (mine["sae_loss"], sae_lib.sae_loss, sae_lib.sae.sae_loss):
        error = loss(x, untouched, torch.zeros(500, 20), 0.0).total
        assert torch.isclose(error, x.square().mean())
    alone = mine["SparseAutoencoder"](5, 20, seed=4)
    mine["train_sae"](alone, x, n_steps=20, seed=4)
    for kind in (mine["SparseAutoencoder"], sae_lib.SparseAutoencoder):
        stacked = [kind(5, 20, seed=s) for s in (4, 5)]
        mine["train_saes"](stacked, x, n_steps=20, seeds=(4, 5))
        assert torch.allclose(stacked[0].W_dec, alone.W_dec, atol=1e-5)
    oracle = sae_lib.oracle_sae(mine["toy_model"].feature_directions, 0.0)
    assert torch.isclose(oracle.loss(x, 0.0).total, (oracle(x)[0] - x).square().mean())


def test_an_edited_class_holds_everywhere_below(run_cells):
    """No ReLU: activations become negative."""
    no_relu = ("torch.relu(x @ self.W_enc + self.b_enc)", "x @ self.W_enc + self.b_enc")
    mine = run_cells(QUICK, until="loss", edits={"sae-class": no_relu})
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    kinds = mine["SparseAutoencoder"], sae_lib.SparseAutoencoder, sae_lib.sae.SparseAutoencoder
    for kind in kinds:
        assert (kind(5, 20).encode(x) < 0).any()
    assert (sae_lib.oracle_sae(mine["toy_model"].feature_directions, 0.1).encode(x) < 0).any()
    topk = sae_lib.TopKSparseAutoencoder(5, 20, k=20)  # it inherits, so it follows
    assert (topk.encode(x) < 0).any()


def test_an_edited_loop_holds_in_the_stacks(run_cells):
    """A loop that never steps: no SAE moves."""
    lazy = ("        optimizer.step()\n", "")
    mine = run_cells(QUICK, until="train-sae", edits={"train-sae": lazy})
    saes = [mine["SparseAutoencoder"](5, 20, seed=s) for s in (0, 1)]
    before = [s.W_enc.detach().clone() for s in saes]
    mine["train_saes"](saes, mine["activations"], n_steps=5, seeds=(0, 1))
    assert all(torch.equal(s.W_enc, w) for s, w in zip(saes, before, strict=True))


@pytest.mark.parametrize(
    "cell_id",
    [
        "train-toy",
        "collect",
        "sae-class",
        "train-sae",
        "run-training",
        "heatmap",
        "directions",
        "topk",
        "knobs",
        "b1",
        "b2",
        "b3",
        "b4",
        "b5",
        "b7",
        "ex-forward",
        "ex-loss",
        "ex-renorm",
        "ex-cosine",
        "ex-matching",
        "ex-lambda",
        "ex-broken",
        "progress",
    ],
)
def test_after_a_restart_a_cell_that_one_may_begin_with_says_what_to_run(cell_id):
    with pytest.raises(AssertionError, match=r"This kernel is new: run (the cells of )?section"):
        exec(compile(CELLS[cell_id].source, cell_id, "exec"), {})


@pytest.mark.parametrize(
    ("geometry", "label"), [("as in the lesson", "6 in 3: "), ("15 in 5", "15 in 5: ")]
)
def test_the_knobs_label_what_they_ran(run_cells, geometry, label):
    changes = {**QUICK, "N_FEATURES": "6", "N_HIDDEN": "3"}
    knobs = {"knobs": ('my_geometry = "as in the lesson"', f'my_geometry = "{geometry}"')}
    mine = run_cells(changes, until="knobs", edits=knobs, but={"verdict", "directions", "firing"})
    assert mine["my_result"].startswith(label)


# --- how the library arrives --------------------------------------------------------------


@pytest.fixture
def provide(monkeypatch, tmp_path, capsys):
    """Runs the library cell in a folder; returns where sae_lib then comes from, what it printed."""
    kept = {name: m for name, m in sys.modules.items() if name.split(".")[0] == "sae_lib"}
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    def run() -> tuple[Path, str]:
        exec(compile(CELLS["library"].source, "library", "exec"), {})
        return Path(sys.path[0]) / "sae_lib", capsys.readouterr().out

    yield run
    for name in [m for m in sys.modules if m.split(".")[0] == "sae_lib"]:
        del sys.modules[name]
    sys.modules.update(kept)


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*.py")
    }


def test_a_checkout_is_used_as_it_is(provide, tmp_path):
    shutil.copytree(ROOT / "sae_lib", tmp_path / "sae_lib")
    mine = (tmp_path / "sae_lib" / "sae.py").read_text(encoding="utf-8") + "mine = True\n"
    (tmp_path / "sae_lib" / "sae.py").write_text(mine, encoding="utf-8")
    where, said = provide()
    assert where == tmp_path / "sae_lib" and said.endswith("folder beside this notebook.\n")
    assert (where / "sae.py").read_text(encoding="utf-8") == mine
    assert sys.modules["sae_lib.sae"].mine


def nothing(here: Path) -> None:
    pass


def half_written(here: Path) -> None:
    (here / "sae_lib").mkdir()
    (here / "sae_lib" / "__init__.py").write_text("from sae_lib.sae import Gone\n")


def cut_off(here: Path) -> None:
    shutil.copytree(ROOT / "sae_lib", here / "sae_lib", ignore=shutil.ignore_patterns("*.pyc"))
    with (here / "sae_lib" / "metrics.py").open("r+b") as file:
        file.truncate(2000)


def emptied(here: Path) -> None:
    shutil.copytree(ROOT / "sae_lib", here / "sae_lib", ignore=shutil.ignore_patterns("*.pyc"))
    (here / "sae_lib" / "training.py").write_text("")


def empty_folder(here: Path) -> None:
    (here / "sae_lib").mkdir()


def a_file_of_that_name(here: Path) -> None:
    (here / "sae_lib").write_text("notes\n")


def a_module_of_that_name(here: Path) -> None:
    (here / "sae_lib.py").write_text("raise RuntimeError('somebody else')\n")


@pytest.mark.parametrize(
    "lying_around",
    [
        nothing,
        half_written,
        cut_off,
        emptied,
        empty_folder,
        a_file_of_that_name,
        a_module_of_that_name,
    ],
)
def test_whatever_lies_around_the_notebooks_own_library_is_used(provide, tmp_path, lying_around):
    lying_around(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    where, said = provide()
    assert "into a temporary folder" in said
    assert contents(where) == sync.library_files()
    assert sorted(p.name for p in tmp_path.iterdir()) == before  # and nothing of theirs is touched


def test_alone_where_the_locale_is_not_utf8_it_reaches_the_verdict(tmp_path):
    """One plain run by nbclient, sections 1 to 6: an upload, on a system as Windows' cp1252 is."""
    notebook = nbformat.read(ROOT / "sparse_autoencoders.ipynb", as_version=4)
    last = next(i for i, cell in enumerate(notebook.cells) if cell.get("id") == "verdict")
    notebook.cells = notebook.cells[: last + 1]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}})
    client.execute(env={**os.environ, **ascii_only})
    assert printed("verdict", notebook) == printed("verdict") != ""
    assert list(tmp_path.iterdir()) == []

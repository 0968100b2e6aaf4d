"""The notebook itself: in step with the library, self-sufficient, and honest when it fails."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

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


def run_cells(changes: dict[str, str], until: str, times: int = 1) -> dict:
    """Run the code cells up to `until` in this process, with lines of the constants replaced."""
    namespace = {}
    for cell in CODE:
        source = cell.source
        if cell.id == "constants":
            for name, value in changes.items():
                source, n = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value}", source)
                assert n == 1, f"the constants cell does not set {name}"
        if cell.id != "library" and not cell.id.startswith("ex-"):
            for _ in range(times):
                exec(compile(source, cell.id, "exec"), namespace)
        if cell.id == until:
            return namespace
    raise LookupError(until)


# --- the file ---------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [c for c in CODE if "sae_lib" in c.metadata], ids=lambda c: c.id)
def test_shown_code_is_the_librarys_code(cell):
    assert cell.source == sync.shown_source(cell.metadata["sae_lib"])


def test_the_embedded_library_is_the_library():
    assert sync.unpack(CELLS["library"].source) == sync.library_files()


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
    texts += [o.data.get("text/html", "") for c in CODE for o in c.outputs if "data" in o]
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


# --- running it -------------------------------------------------------------------------


def test_alone_in_an_empty_folder_it_reaches_the_same_verdict(tmp_path):
    shutil.copy(ROOT / "sparse_autoencoders.ipynb", tmp_path)
    notebook = nbformat.read(tmp_path / "sparse_autoencoders.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    assert (tmp_path / "sae_lib" / "sae.py").read_text() == sync.library_files()["sae.py"]
    assert printed("verdict", notebook) == printed("verdict") != ""


@pytest.mark.parametrize(
    "changes",
    [
        {"L1_COEFFICIENT": "0.0"},
        {"N_STEPS": "1_000"},
        {"NORMALIZE_DECODER": "False", "N_STEPS": "2_000"},
    ],
    ids=["no L1", "too few steps", "no unit norm and fewer steps"],
)
def test_a_broken_setting_fails_the_verdict_with_a_sentence(changes):
    with pytest.raises(AssertionError, match=r"Expected all 10 features .* but came to: \d of 10"):
        run_cells(changes, until="verdict")


def test_a_base_model_without_all_features_fails_the_gate():
    with pytest.raises(AssertionError, match="the base model left a feature out"):
        run_cells({"N_FEATURES, N_HIDDEN": "40, 2"}, until="gate")


def test_every_cell_may_be_run_twice():
    namespace = run_cells({}, until="verdict", times=2)
    assert namespace["verdict"] == printed("verdict").strip()


def test_two_runs_give_identical_numbers():
    first, second = (run_cells({"N_STEPS": "300"}, until="cosine") for _ in range(2))
    assert (first["feature_acts"] == second["feature_acts"]).all()


# --- how the library arrives ------------------------------------------------------------


@pytest.fixture
def provide(monkeypatch):
    """The notebook's own provide_library, with the import state put back afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    kept = {name: m for name, m in sys.modules.items() if name.split(".")[0] == "sae_lib"}
    source = CELLS["library"].source.split("\nlibrary_note =")[0]
    namespace = {}
    exec(compile(source, "library", "exec"), namespace)
    yield namespace["provide_library"]
    for name in [m for m in sys.modules if m.split(".")[0] == "sae_lib"]:
        del sys.modules[name]
    sys.modules.update(kept)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("*.py")}


def test_an_empty_folder_gets_the_files(provide, tmp_path):
    assert "unpacked from this notebook" in provide(tmp_path)
    assert contents(tmp_path / "sae_lib") == sync.library_files()
    assert sys.path[0] == str(tmp_path)


def test_a_checkout_is_used_as_it_is(provide, tmp_path):
    (tmp_path / "sae_lib").mkdir()
    (tmp_path / "sae_lib" / "__init__.py").write_text("newer = True\n")
    assert "used as it is" in provide(tmp_path)
    assert contents(tmp_path / "sae_lib") == {"__init__.py": "newer = True\n"}


def test_a_stale_unpacked_copy_is_replaced(provide, tmp_path, monkeypatch):
    old = {"__init__.py": "", "gone.py": "x = 1\n"}
    monkeypatch.setitem(provide.__globals__, "LIBRARY", sync.pack(old))
    provide(tmp_path)
    monkeypatch.setitem(provide.__globals__, "LIBRARY", sync.pack(sync.library_files()))
    provide(tmp_path)
    assert contents(tmp_path / "sae_lib") == sync.library_files()
    assert [p.name for p in tmp_path.iterdir()] == ["sae_lib"]


def test_an_unpacked_copy_that_the_learner_edited_is_kept_aside(provide, tmp_path):
    provide(tmp_path)
    (tmp_path / "sae_lib" / "sae.py").write_text("mine = True\n")
    assert "kept in sae_lib_1" in provide(tmp_path)
    assert (tmp_path / "sae_lib_1" / "sae.py").read_text() == "mine = True\n"
    assert contents(tmp_path / "sae_lib") == sync.library_files()


def test_a_folder_that_cannot_be_written_gets_a_temporary_copy(provide, tmp_path):
    here = tmp_path / "file"  # a file in the folder's place: not writable, whoever runs this
    here.write_text("")
    assert "temporary folder" in provide(here)
    assert contents(Path(sys.path[0]) / "sae_lib") == sync.library_files()

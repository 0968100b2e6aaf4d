"""The repository as a stranger meets it: README, licence, install, workflows, commands."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools import run_lesson

ROOT = Path(__file__).resolve().parents[1]


def read(path: str | Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


README, CI, PYPROJECT = read("README.md"), read(".ci/run"), tomllib.loads(read("pyproject.toml"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("[!.]*/README.md")])


def blocks(language: str) -> list[str]:
    """The README's code blocks of one language."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", README)


def test_the_readmes_lines_do_what_they_say(capsys):
    (code,) = blocks("python")
    exec(code, {})
    assert capsys.readouterr().out.startswith("10 of 10 features")


def test_each_command_to_start_with_has_its_powershell_twin():
    commands = [line for line in "".join(blocks("sh")).splitlines() if "nbconvert" not in line]
    assert len(commands) == 3
    for old, new in {"python3": "py", " && ": "; ", "bin/": "Scripts/", "/": "\\"}.items():
        commands = [command.replace(old, new) for command in commands]
    assert "".join(blocks("powershell")).splitlines() == commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_are_there(page):
    links = re.findall(r"\]\(([^)#\s]+)", read(page))
    missing = [to for to in links if "://" not in to and not (page.parent / to).exists()]
    assert not missing


def test_licences_are_named_where_one_looks():
    text, code = (read(name) for name in ("LICENSE-text", "LICENSE"))
    assert code.startswith("MIT License\n") and PYPROJECT["project"]["license"] == "MIT"
    assert "https://creativecommons.org/licenses/by/4.0/" in text
    assert "[MIT](LICENSE)" in README and "[CC BY 4.0](LICENSE-text)" in README
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["license"] == ["MIT", "CC-BY-4.0"]
    for who in [author["name"] for author in citation["authors"]]:
        assert f"(c) 2026 {who}\n" in text and f"(c) 2026 {who}\n" in code
    assert {"cff-version", "message", "title"} < citation.keys()


def imported(*modules: Path) -> set[str]:
    """Packages by their names in an index, without Python's own and this library."""
    text = "\n".join(map(read, modules))
    found = re.findall(r"(?m)^ *(?:import (\w+)|from (\w+)[\w.]* import )", text)
    names = {name for pair in found for name in pair if name}
    renamed = {"sklearn": "scikit-learn", "PIL": "pillow", "IPython": "ipython"}
    return {renamed.get(name, name) for name in names - sys.stdlib_module_names - {"sae_lib"}}


def test_what_is_installed_is_the_library_whole_with_what_it_imports():
    library, project = ROOT / "sae_lib", PYPROJECT["project"]
    packages = {str(p.parent.relative_to(ROOT)) for p in library.rglob("*.py")}
    assert {p.replace(os.sep, ".") for p in packages} == {
        *PYPROJECT["tool"]["setuptools"]["packages"]
    }
    others = {p.suffix for p in library.rglob("*.*") if p.suffix not in (".py", ".pyc")}
    assert others <= {".html"}  # what package-data carries
    needed = {re.match(r"[\w-]+", line).group() for line in project["dependencies"]}
    assert imported(*library.glob("*.py")) == needed
    extra = project["optional-dependencies"]["lesson"]
    assert imported(*library.glob("lesson/*.py")) - needed == {*extra}
    assert not re.search(r"sae_lib\.lesson|import lesson", "".join(map(read, library.glob("*.py"))))
    newest = re.search(r"(?m)^## (.*)$", read("CHANGELOG.md")).group(1)
    assert newest == project["version"]


def test_workflows_run_nothing_that_cannot_be_run_here():
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "pages.yml"]
    for path in WORKFLOWS:
        jobs = yaml.safe_load(read(path))["jobs"].values()
        steps = [step for job in jobs for step in job["steps"]]
        runs = [step["run"] for step in steps if "run" in step]
        assert runs and all(run == ".ci/run" or run in CI for run in runs)
        for part in [run.split()[1] for run in runs if " " in run]:
            assert f"\n{part}() {{" in CI  # a function of the script


def test_nothing_needs_unix_on_import():  # for Windows; ruff sees that encodings are given
    for path in [p for part in ("sae_lib", "tests", "tools") for p in ROOT.glob(f"{part}/**/*.py")]:
        assert not re.search(r"(?m)^(import|from) (resource|fcntl|pwd)\b", read(path)), path.name


def lesson(*cells: str, **metadata) -> None:
    """Writes tiny.ipynb with these cells; without ids, as nbstripout leaves it."""
    cells = [new_markdown_cell("# Tiny"), *map(new_code_cell, cells)]
    for cell in cells:
        del cell["id"]
    notebook = new_notebook(cells=cells, metadata=metadata)
    Path("tiny.ipynb").write_text(json.dumps(notebook), encoding="utf-8")


@pytest.mark.filterwarnings("ignore:Cell is missing an id")
def test_running_the_lesson_says_the_verdict_and_makes_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    widgets = {"application/vnd.jupyter.widget-state+json": {}}  # without a "state"
    named = {"name": "no such kernel", "display_name": "other"}  # this Python is used
    printed = "import sys; print('9 of 9 recovered by', sys.executable)"
    lesson(printed, "print(1)", widgets=widgets, kernelspec=named)
    page = tmp_path / "tiny.html"
    for _ in range(2):  # the page of the first run may be written over
        assert run_lesson.main("tiny.ipynb") == 0
        said = f"9 of 9 recovered by {sys.executable}\nThe page: {page}\n"
        assert capsys.readouterr().out == said
    page.write_text("<p>mine</p>", encoding="utf-8")
    assert run_lesson.main("tiny.ipynb") == 1 and page.read_text() == "<p>mine</p>"
    said = capsys.readouterr()
    assert said.out.startswith("9 of 9 recovered") and "was not made from a notebook" in said.err


@pytest.mark.filterwarnings("ignore:Cell is missing an id")
@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("import os; os._exit(1)", "The kernel gave up: Kernel died"),
        ("1 / 0", "A cell failed: ZeroDivisionError: division by zero"),
        (None, "tiny.ipynb could not be read as a notebook: [Errno 2] No such file"),
        ("<html>", "tiny.ipynb could not be read as a notebook: Notebook does not appear"),
    ],
)
def test_a_lesson_that_cannot_run_is_one_sentence(tmp_path, monkeypatch, capsys, cell, said):
    monkeypatch.chdir(tmp_path)
    if cell == "<html>":
        Path("tiny.ipynb").write_text(cell, encoding="utf-8")
    elif cell:
        lesson(cell)
    assert run_lesson.main("tiny.ipynb") == 1
    assert said in capsys.readouterr().err.splitlines()[-1]

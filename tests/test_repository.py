"""The repository as a stranger meets it: README, licence, install, commands."""

import base64
import io
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from tools import run_lesson
from tools.sync_notebook import look_alike

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("[!.]*/README.md")])


def read(path: str | Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(language: str) -> str:
    """The README's code blocks of one language."""
    return "".join(re.findall(rf"(?ms)^```{language}\n(.*?)^```$", read("README.md")))


def test_each_command_to_start_with_has_its_powershell_twin():
    commands = blocks("sh")
    for old, new in {"python3": "py", " && ": "; ", "bin/": "Scripts/", "/": "\\"}.items():
        commands = commands.replace(old, new)
    assert blocks("powershell") == commands != ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_are_there(page):
    links = re.findall(r"\]\(([^)#\s]+)", read(page))
    assert not [to for to in links if "://" not in to and not (page.parent / to).exists()]


def imported(modules) -> set[str]:
    """Packages by their names in an index, without Python's own and this library."""
    text = "\n".join(map(read, modules))
    found = re.findall(r"(?m)^ *(?:import|from) (\w+)[\w.]*(?: import| as|$)", text)
    names = {*found} - sys.stdlib_module_names - {"sae_lib"}
    renamed = {"sklearn": "scikit-learn", "PIL": "pillow", "IPython": "ipython"}
    return {renamed.get(name, name) for name in names}


def test_what_is_installed_is_the_library_whole_with_what_it_imports():
    pyproject = tomllib.loads(read("pyproject.toml"))
    project, packed = pyproject["project"], pyproject["tool"]["setuptools"]
    assert packed["packages"] == ["sae_lib", "sae_lib.lesson"]
    files = [path for path in (ROOT / "sae_lib").rglob("*.*") if path.suffix != ".pyc"]
    others = {f"*{path.suffix}" for path in files if path.suffix != ".py"}
    assert {*packed["package-data"]["sae_lib.lesson"]} == others
    method, lesson = (list(ROOT.glob(f"sae_lib/{part}*.py")) for part in ("", "lesson/"))
    needed = {re.match(r"[\w-]+", line).group() for line in project["dependencies"]}
    assert imported(method) == needed
    assert imported(lesson) - needed == {*project["optional-dependencies"]["lesson"]}
    assert not re.search(r"sae_lib\.lesson|import lesson", "".join(map(read, method)))
    assert re.search(r"(?m)^## (.*)$", read("CHANGELOG.md"))[1] == project["version"]


def test_what_goes_wrong_with_a_lesson_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("not.ipynb").write_text("<html>", encoding="utf-8")
    cells = [new_code_cell(code) for code in ("print('9 of 9 recovered')", "1 / 0")]
    kernel = {"name": "no such kernel", "display_name": "other"}  # this Python is used
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), "tiny.ipynb")
    page = Path("tiny.html")
    page.write_text('<div class="jp-Cell">', encoding="utf-8")  # of a run before
    assert run_lesson.main("not.ipynb", "tiny.ipynb") == 1
    said = capsys.readouterr()
    assert said.out == f"9 of 9 recovered\nThe page: {page.resolve()}\n"
    unread, failed = said.err.splitlines()[-2:]
    assert "not.ipynb could not be read as a notebook: Notebook does not appear" in unread
    assert failed == "A cell failed: ZeroDivisionError: division by zero"
    assert "9 of 9" in page.read_text(encoding="utf-8")
    page.write_text("<p>mine</p>", encoding="utf-8")
    with pytest.raises(FileExistsError, match="was not made from a notebook"):
        run_lesson.write_page(new_notebook(), page)
    assert run_lesson.main("tiny.ipynb") == 1 and "mine" in page.read_text(encoding="utf-8")


def test_an_output_is_replaced_only_if_it_looks_different():
    def output(grey=200.0, size=200, stroke=0, **more):
        file, pixels = io.BytesIO(), np.full((size, size), grey, np.uint8)
        pixels[:3, :stroke] = 0
        Image.fromarray(pixels).save(file, format="png")
        picture = base64.b64encode(file.getvalue()).decode()
        return [{"data": {"image/png": picture, "text/plain": "[figure]", **more}}]

    assert look_alike(output(), output(grey=200.9))
    different = (
        output(grey=180),
        output(size=201),
        output(stroke=20),
        output(**{"text/plain": "10 of 10"}),
        [],
    )
    assert not any(look_alike(output(), other) for other in different)
    assert not look_alike([{"text": "L0 1.7"}], [{"text": "L0 1.8"}])


def test_the_service_runs_functions_that_the_script_has():
    script = read(".ci/run")
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)
    named = re.findall(r"run: (\w+),|\.ci/run (\w+)", read(".github/workflows/ci.yml"))
    assert {a or b for a, b in named} == {"all", "newest", "pages"}
    assert all(f"\n{a or b}() {{" in script for a, b in named)

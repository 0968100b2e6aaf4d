"""The repository as a stranger meets it: README, licence, install, workflows, commands."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def read(path: str | Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


README, CI, PYPROJECT = read("README.md"), read(".ci/run"), tomllib.loads(read("pyproject.toml"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("[!.]*/README.md")])


def output_of(*command: str | Path, **where) -> subprocess.CompletedProcess:
    """Of this Python with these arguments."""
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, **where)


def blocks(language: str) -> list[str]:
    """The README's code blocks of one language."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", README)


def test_readme_is_short_and_its_ten_lines_do_what_they_say(capsys):
    (code,) = blocks("python")
    assert len(README.splitlines()) <= 90 and len(code.strip().splitlines()) <= 12
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


def test_what_is_installed_is_the_library_whole_with_what_it_imports():
    library = ROOT / "sae_lib"
    modules = sorted(library.rglob("*.py"))
    packages = {str(m.parent.relative_to(ROOT)).replace(os.sep, ".") for m in modules}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == packages
    others = {p.suffix for p in library.rglob("*.*") if p.suffix not in (".py", ".pyc")}
    assert others <= {".html"}  # what package-data carries
    text = "\n".join(read(module) for module in modules)
    found = re.findall(r"(?m)^ *(?:import (\w+)|from (\w+)[\w.]* import )", text)
    imported = {name for pair in found for name in pair if name}
    renamed = {"sklearn": "scikit-learn", "PIL": "pillow", "IPython": "ipython"}
    needed = {renamed.get(name, name) for name in imported - sys.stdlib_module_names - {"sae_lib"}}
    dependencies = PYPROJECT["project"]["dependencies"]
    assert needed == {re.match(r"[\w-]+", line).group() for line in dependencies}
    newest = re.search(r"(?m)^## (.*)$", read("CHANGELOG.md")).group(1)
    assert newest == PYPROJECT["project"]["version"]


def test_workflows_run_nothing_that_cannot_be_run_here():
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "pages.yml"]
    for path in WORKFLOWS:
        jobs = yaml.safe_load(read(path))["jobs"].values()
        steps = [step for job in jobs for step in job["steps"]]
        runs = [step["run"] for step in steps if "run" in step]
        assert runs and all(run == ".ci/run" or run in CI for run in runs)
        for part in [run.split()[1] for run in runs if " " in run]:
            assert f"\n{part}() {{" in CI  # a function of the script


def test_the_ci_script_is_sound_and_finds_the_commands_it_quotes():
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)
    for name, end in re.findall(r"\$\(line (\S+) '(.*?)'\)", CI):
        assert re.search(rf"(?m){end}$", read(name)), f"{name} has no line that ends in {end}"


def test_nothing_needs_unix_on_import():  # for Windows; ruff sees that encodings are given
    for path in [p for part in ("sae_lib", "tests", "tools") for p in ROOT.glob(f"{part}/**/*.py")]:
        assert not re.search(r"(?m)^(import|from) (resource|fcntl|pwd)\b", read(path)), path.name


def test_pytest_from_another_folder_finds_the_notebook_and_not_what_comes_after(tmp_path):
    quick = ["--ignore", ROOT / "tests", "--collect-only", "-q", "-n", "0"]
    found = output_of("-m", "pytest", ROOT, *quick, cwd=tmp_path).stdout
    assert "sparse_autoencoders.ipynb::" in found and "real_model" not in found


def test_running_the_lesson_uses_this_python_and_says_the_verdict_without_a_page(tmp_path):
    folder = tmp_path / "kernels" / "python3"  # a kernel of that name, but not this Python
    folder.mkdir(parents=True)
    spec = '{"argv": ["/no/such/python"], "display_name": "other", "language": "python"}'
    (folder / "kernel.json").write_text(spec, encoding="utf-8")
    (tmp_path / "tiny.html").mkdir()  # where the page would go
    cell = nbformat.v4.new_code_cell("import sys; print(sys.executable)", id="verdict")
    named = {"kernelspec": {"name": "python3", "display_name": "other"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=named), tmp_path / "tiny.ipynb")
    environment = {**os.environ, "JUPYTER_PATH": str(tmp_path)}
    command = ROOT / "tools" / "run_lesson.py", "tiny.ipynb"
    done = output_of(*command, cwd=tmp_path, env=environment)
    assert done.stdout.strip() == sys.executable, done.stderr
    assert done.returncode == 1 and "could not be written" in done.stderr

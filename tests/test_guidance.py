"""A cell run before the one it needs says which that is."""

import ast
import re
from pathlib import Path

import nbformat
from IPython.testing.globalipapp import get_ipython

from sae_lib import guidance

NOTEBOOK = nbformat.read(
    Path(__file__).resolve().parents[1] / "sparse_autoencoders.ipynb", as_version=4
)


def names_by_section():
    """For each section, the names that its cells bind at top level and those they use."""
    section, bound, used = "before section 1", {}, {}
    for cell in NOTEBOOK.cells:
        if cell.cell_type == "markdown":
            if number := re.match(r"## (\d)\.", cell.source):
                section = f"section {number[1]}"
            elif experiment := re.match(r"### (Break it \d)", cell.source):
                section = f"section 8, '{experiment[1]}'"
            elif re.match(r"### (Your turn|Exercise|Ten questions)", cell.source):
                section = "section 8, later"
            continue
        tree = ast.parse(cell.source)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                bound.setdefault(node.name, []).append(section)
        stack = list(tree.body)
        while stack:  # names bound or used outside functions and classes
            node = stack.pop()
            if isinstance(node, ast.Name):
                if isinstance(node.ctx, ast.Store):
                    bound.setdefault(node.id, []).append(section)
                else:
                    used.setdefault(node.id, set()).add(section)
            if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda | ast.ListComp):
                stack.extend(ast.iter_child_nodes(node))
    return bound, used


def test_every_name_is_made_where_the_guidance_says():
    bound, _ = names_by_section()
    for section, names in guidance.MADE_IN.items():
        for name in names:
            if name != "plots":  # imported, not assigned
                assert bound[name][0] == section, name


def test_no_name_that_a_later_section_needs_is_left_out():
    bound, used = names_by_section()
    listed = {name for names in guidance.MADE_IN.values() for name in names}
    for name, sections in used.items():
        for needing in sections - set(bound.get(name, sections)):
            assert name in listed or bound[name][0] == "section 1", (name, needing)


def test_a_missing_name_is_explained_and_other_errors_are_left_alone(capsys, monkeypatch):
    shell = get_ipython()
    monkeypatch.setattr(guidance, "get_ipython", lambda: shell)
    guidance.explain_missing_names()
    try:
        for code, expected in [
            ("toy_model.W", "It is made in section 2: run the cells there first."),
            ("something_else", "name 'something_else' is not defined"),
        ]:
            result = shell.run_cell(code)
            assert expected in str(result.error_in_exec)
            assert expected in re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    finally:
        shell.set_custom_exc((), None)

"""The stored experiments: well-formed, the same tables as printed, and (slow) the same results."""

import json
import re

import numpy as np
import pytest

from evidence import failures
from evidence.common import CROWDED, DATA, base_models, load, rounded, run, scores, trained
from evidence.crowded import spares
from evidence.pages import PAGES
from evidence.run import EXPERIMENTS
from evidence.tables import KEYS, pooled, report, table

NAMES = sorted(EXPERIMENTS)


def test_every_experiment_has_its_data_its_table_and_its_line_in_the_readme():
    assert NAMES == sorted(KEYS) == sorted({p.stem for p in DATA.glob("*.json")} - {"seeds"})
    readme = (DATA.parent / "README.md").read_text("utf-8")
    assert sorted(re.findall(r"(?m)^\| `(\w+)` \|", readme)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_row_holds_one_result_for_each_seed_and_a_line_rests_on_three_base_models(name):
    text = (DATA / f"{name}.json").read_text(encoding="utf-8")
    assert not re.search("NaN|Infinity", text)  # Python would write them; they are not JSON
    stored = json.loads(text)
    assert stored["about"] == " ".join(EXPERIMENTS[name].__doc__.split())  # it is this experiment
    for row in stored["rows"]:
        assert len({len(value) for value in row.values() if isinstance(value, list)}) <= 1, row
    for line, group in pooled(name).items():  # of 12 in 3, two of twelve base models are whole
        assert len(set(group["base_model"])) == (2 if line[:2] == (3, 12) else 3), line


def test_the_kept_tables_are_those_of_the_stored_results_and_whole():
    kept = (DATA.parent / "tables.md").read_text(encoding="utf-8")
    assert kept == report(list(KEYS)) + "\n"
    assert all(len({line.count("|") for line in table(n).splitlines()}) == 1 for n in NAMES)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_the_command_that_made_it_and_holds_no_empty_number(page):
    text = PAGES[page]()
    command = re.search(r"`python -m evidence\.run ([^`]*)`", text)
    assert set(command[1].split()) <= set(NAMES) and "nan" not in re.sub(r"base64,\S+", "", text)


def test_the_costs_follow_from_error_and_activity_and_are_even_where_the_page_says():
    text = PAGES["cost"]()
    (even,) = map(float, re.findall(r"the same at λ = ([\d.]+):", text))
    at_even = []
    for line in text.splitlines()[2:4]:
        error, activity, *costs = map(float, line.strip("| ").split(" | ")[2:])
        assert costs == pytest.approx([error + l1 * activity for l1 in (0.001, 0.2)], abs=2e-3)
        at_even.append(error + even * activity)
    assert at_even[0] == pytest.approx(at_even[1], abs=3e-3)


def test_an_experiment_is_stored_as_it_ran(tmp_path, monkeypatch):
    def tiny():
        """What it is about."""
        models = base_models(4, 2, 0.9)
        saes = trained(models, 8, l1=0.01, seeds=range(2), n_steps=2, batch_size=8)
        yield from scores(models, saes, spares, l1=0.01)

    monkeypatch.setattr("evidence.common.DATA", tmp_path)
    run("tiny", tiny)
    assert load("tiny")["rows"] == rounded(list(tiny()))


def found_again(name: str, new, *columns: str, **line) -> None:
    """Means over the seeds; single seeds may differ where another machine rounds otherwise."""
    both = (load(name)["rows"], new)
    old, new = (next(row for row in rows if line.items() <= row.items()) for rows in both)
    for column in columns:
        assert np.mean(new[column]) == pytest.approx(np.mean(old[column]), rel=0.05, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "setting"), [(15, {"l1": 0.2}), (20, {"k": 1})])
def test_the_map_is_found_again(n, setting):
    models = base_models(n, 5, 0.95)
    new = scores(models, trained(models, 40, **setting, **CROWDED), n_features=n, **setting)
    found_again("map", new, "recovered", "l0", n_features=n, base_model=300, **setting)


@pytest.mark.slow
def test_absorption_is_found_again():
    line = {"setting": "λ = 0.03", "base_model": 301}
    found_again("absorption", failures.absorption(), "A's fires on A and B", **line)

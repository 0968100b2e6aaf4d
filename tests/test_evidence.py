"""The stored experiments: well-formed, shown as they are stored, and (slow) found again."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from evidence import common, crowded, failures, seeds
from evidence.common import load, orthogonal_models, pooled, rounded, run, scores, trained
from evidence.run import EXPERIMENTS, page, table
from sae_lib import ToyModel

DOCS = (Path(__file__).parents[1] / "docs" / "evidence.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_stored_whole_and_its_page_names_the_command_that_made_it(name):
    text = (common.DATA / f"{name}.json").read_text(encoding="utf-8")
    assert not re.search("NaN|Infinity", text)  # Python would write them; they are not JSON
    for row in json.loads(text)["rows"]:  # a result for each seed
        lengths = {len(of) for c, of in row.items() if isinstance(of, list) and "null" not in c}
        assert len(lengths) <= 1, row
    for setting, group in pooled(name).items():  # of 12 in 3, two of twelve toy models are whole
        assert len(set(group["toy_model"])) == (2 if setting[:2] == (3, 12) else 3), setting
    assert len({line.count("|") for line in table(name).splitlines()}) == 1
    shown = re.sub(r"base64,[^\"]+", "", page(name))
    assert f"`.venv/bin/python -m evidence.run {name}`" in shown and "nan" not in shown


def cell(text: str, line: str, column: str) -> str:
    """A cell of the Markdown table in this text, by how its line starts and by its heading."""
    lines = [row.strip("| ").split(" | ") for row in text.splitlines() if row.startswith("|")]
    (row,) = [cells for cells in lines if cells[0] == line]
    return row[lines[0].index(column)]


def raw(name: str, column: str, **setting) -> list[float]:
    """The numbers of one setting straight from the file."""
    rows = [row for row in load(name)["rows"] if setting.items() <= row.items()]
    assert len(rows) == 3
    return [value for row in rows for value in row[column]]


def test_the_numbers_of_the_pages_are_those_of_the_files():
    """One number of a kind, found by another way than the pages'."""
    shown = page("switch")
    assert cell(shown, "B: or then 3,000 at λ = 0.01", "all ten, of 24 runs") == str(
        sum(raw("switch", "complete", phase="on", l1=0.01))
    )
    assert cell(page("width"), "80", "dead") == f"{sum(raw('width', 'dead', d_sae=80)) / 24:.1f}"
    found, noise = (raw("choosing_k", c, case="15 in 5", k=4) for c in ("recovered", "null fvu"))
    shown = page("choosing_k")
    assert cell(shown, "found", "k = 4") == f"{int(100 * sum(found) / 48 / 15)} %"
    ratio = (sum(noise) / 12) / (sum(raw("choosing_k", "fvu", case="15 in 5", k=4)) / 48)
    assert ratio > float(re.search(r"at least ([\d.]+) times", shown)[1]) > 1
    silent = [s < 0.05 for s in raw("absorption", "A's fires on A and B", setting="λ = 0.03")]
    shown = cell(page("absorption"), "λ = 0.03", "of 48 runs: silent on A and B")
    assert shown == str(sum(silent))


def test_the_costs_follow_from_error_and_activity_and_are_even_where_the_page_says():
    text = page("cost")
    (even,) = map(float, re.findall(r"the same at λ = ([\d.]+)\.", text))
    at_even = []
    for line in text.splitlines()[2:4]:
        error, activity, *costs = map(float, line.strip("| ").split(" | ")[2:])
        assert costs == pytest.approx([error + l1 * activity for l1 in (0.001, 0.2)], abs=2e-3)
        at_even.append(error + even * activity)
    assert at_even[0] == pytest.approx(at_even[1], abs=3e-3)


def test_what_choosing_k_measures():
    rows = torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.0, 1.0]])
    assert failures.mean_abs_cosine(rows) == pytest.approx(1 / 3)  # of three pairs one is parallel
    model = ToyModel(6, 3)
    noise, x = failures.gaussian(model, 20_000, 3), model.encode(model.sample_features(20_000)).T
    assert torch.allclose(noise.mean(dim=0), x.mean(dim=1), atol=0.01)
    assert torch.allclose(noise.T.cov(), x.cov(), atol=0.005)  # it is far from diagonal


def test_an_experiment_is_stored_as_it_ran(tmp_path, monkeypatch):
    def tiny():
        models = orthogonal_models(4, 0.9)
        saes = trained(models, 8, l1=0.01, seeds=range(2), n_steps=2, batch_size=8)
        yield from scores(models, saes, crowded.spares, l1=0.01)

    monkeypatch.setattr("evidence.common.DATA", tmp_path)
    run("tiny", tiny)
    assert load("tiny")["rows"] == rounded(list(tiny()))


def test_the_counts_of_seeds_add_up_and_are_the_table_of_the_document():
    found = {1: 0.5, 2: None, 3: 0.98, 4: 0.999}
    line = seeds.line({"seeds": 4}, found)
    assert line["complete"] == 1 and line["incomplete"] == {1: 0.5, 3: 0.98}
    assert line["lowest"] == 0.5 and line["not_settled"] == [2]
    for line in seeds.stored():
        n = line["seeds"] - len(line["not_settled"])
        assert line["complete"] + len(line["incomplete"]) == n >= 0.9 * line["seeds"]
    assert seeds.table() in DOCS


def found_again(name: str, new, *columns: str, **line) -> None:
    """Means over the seeds; single seeds may differ where another machine rounds otherwise."""
    both = (load(name)["rows"], new)
    old, new = (next(row for row in rows if line.items() <= row.items()) for rows in both)
    for column in columns:
        assert np.mean(new[column]) == pytest.approx(np.mean(old[column]), rel=0.1, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "setting"), [(15, {"l1": 0.2}), (20, {"k": 1})])
def test_the_map_is_found_again(n, setting):
    models = common.toy_models(n, 5, 0.95)
    new = common.scores(
        models, trained(models, 40, **setting, **common.CROWDED), n_features=n, **setting
    )
    found_again("map", new, "recovered", "l0", n_features=n, toy_model=300, **setting)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", seeds.RECIPES)
@pytest.mark.parametrize("d_sae", [12, 20, 200])
def test_eight_seeds_never_run_before_are_complete(recipe, d_sae):
    lowest = seeds.lowest_cosines(recipe, d_sae, range(40_000, 40_008))
    print(f"\n{recipe}, {d_sae} latents: {lowest}")
    assert all(cosine is None or cosine >= 0.99 for cosine in lowest.values())

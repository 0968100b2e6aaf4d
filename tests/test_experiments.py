"""The stored experiments: well-formed, the same tables as printed, and (slow) the same results."""

import json

import pytest

from experiments import crowded, dependent, easy
from experiments.common import DATA, load
from experiments.run import EXPERIMENTS
from experiments.tables import TABLES, pooled, table

NAMES = sorted(EXPERIMENTS)


def test_every_experiment_has_its_data_and_its_table():
    assert NAMES == sorted(TABLES) == sorted(path.stem for path in DATA.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_stored_rows_name_their_base_model_and_hold_one_result_for_each_seed(name):
    stored = load(name)
    assert set(stored) == {"settings", "cpu_seconds", "rows"}
    assert stored["rows"]
    for row in stored["rows"]:
        assert "base_model" in row or name == "encoding"
        lengths = {len(v) for k, v in row.items() if isinstance(v, list) and "truth" not in k}
        assert len(lengths) <= 1, f"{row} holds lists of different lengths"
        if name in ("map", "spares", "widths", "implied", "family", "linear", "frozen"):
            assert lengths == {16}


@pytest.mark.parametrize("name", NAMES)
def test_no_line_of_a_table_rests_on_fewer_than_three_base_models(name):
    if name in ("encoding", "flattery"):
        pytest.skip("one line a case, or one line a base model")
    for line, group in pooled(load(name)["rows"], TABLES[name][0]).items():
        assert len(set(group["base_model"])) >= 3, line


@pytest.mark.parametrize("name", NAMES)
def test_tables_print_a_cell_for_every_heading(name):
    lines = table(name).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) > 2


def test_a_file_without_nan_can_be_read_by_any_json_reader():
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    for path in DATA.glob("*.json"):
        json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def stored_row(name: str, **wanted) -> dict:
    rows = [r for r in load(name)["rows"] if wanted.items() <= r.items()]
    assert len(rows) == 1
    return rows[0]


def close(new: list, old: list, tolerance: float) -> bool:
    """Means over the seeds; single seeds may differ where another machine rounds otherwise."""
    return abs(sum(new) / len(new) - sum(old) / len(old)) <= tolerance


@pytest.mark.slow
@pytest.mark.parametrize(("n_features", "setting"), [(15, {"l1": 0.2}), (20, {"k": 1})])
def test_the_map_is_found_again(n_features, setting):
    new = crowded.map_row(n_features, setting, 300)
    old = stored_row("map", n_features=n_features, base_model=300, **setting)
    assert close(new["recovered"], old["recovered"], 0.5)
    assert close(new["l0"], old["l0"], 0.05)
    assert abs(new["agreement"] - old["agreement"]) < 0.05


@pytest.mark.slow
def test_ten_latents_are_trapped_again_by_latents_that_are_always_on():
    new, old = easy.width_row(10, 300), stored_row("widths", d_sae=10, base_model=300)
    assert close(new["recovered"], old["recovered"], 1.5)
    trapped = [
        on for on, found in zip(new["always_on"], new["recovered"], strict=True) if found < 10
    ]
    assert len(trapped) >= 5 and all(trapped)


@pytest.mark.slow
def test_b_leans_towards_a_again():
    new = dependent.implied_row("uniform", "λ = 0.03", 300)
    old = stored_row("implied", values="uniform", setting="λ = 0.03", base_model=300)
    for name in ("cos(B's, B)", "cos(B's, A+B)"):
        assert close(new[name], old[name], 0.02)

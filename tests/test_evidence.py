"""The evidence on many seeds: what `python -m evidence.seeds` stored, and a fresh sample of it."""

import json

import pytest

from evidence import seeds

LINES = seeds.stored()


def test_a_part_is_stored_and_taken_up_again(tmp_path, monkeypatch):
    monkeypatch.setattr(seeds, "FILE", tmp_path / "seeds.json")
    monkeypatch.setattr(seeds, "PARTS", [("falling", 20, 7, 60), ("constant", 12, 7, 60)])
    found = {7: 0.5, 8: None, 66: 0.98}  # at these seeds; elsewhere all
    measure = lambda recipe, d_sae, part: {s: found.get(s, 0.999) for s in part}  # noqa: E731
    monkeypatch.setattr(seeds, "lowest_cosines", measure)
    for part in reversed(seeds.PARTS):
        seeds.store(seeds.run_part(*part))
    assert list(seeds.stored()) == seeds.PARTS
    line = json.loads((tmp_path / "seeds.json").read_text())[0]
    assert line["complete"] == 57 and line["incomplete"] == {"7": 0.5, "66": 0.98}
    assert line["lowest"] == 0.5 and line["base_model_not_settled"] == [8]


@pytest.mark.skipif(not LINES, reason="python -m evidence.seeds was not run yet")
def test_no_seed_of_those_that_were_run_fails_with_a_price_that_falls():
    """Nor with a constant price, but at 12 latents (docs/evidence.md says what happens there)."""
    assert set(LINES) <= set(seeds.PARTS)
    for (recipe, d_sae, *_), line in LINES.items():
        n = line["seeds"] - len(line["base_model_not_settled"])
        assert line["complete"] + len(line["incomplete"]) == n >= 0.95 * line["seeds"]
        assert not line["incomplete"] or (recipe, d_sae) == ("constant", 12)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", seeds.RECIPES)
@pytest.mark.parametrize("d_sae", [12, 20, 200])
def test_eight_seeds_never_run_before_are_complete(recipe, d_sae):
    lowest = seeds.lowest_cosines(recipe, d_sae, range(40_000, 40_008))
    print(f"\n{recipe}, {d_sae} latents: {lowest}")
    assert all(cosine is None or cosine >= 0.99 for cosine in lowest.values())

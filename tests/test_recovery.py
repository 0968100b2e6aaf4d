"""The README's dozen lines, run as they stand, and what they end with, measured from outside.

The notebooks, which are tests too, show the same of other seeds and of the other recipe.
"""

import contextlib
import copy
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_lib import cosine_similarity_matrix, fvu, judge, l0, oracle_sae, recovered

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def names() -> dict:
    """What the lines leave, and what they print as `said`. Do not write to it."""
    (lines,) = re.findall(r"(?ms)^```python\n(.*?)^```$", README.read_text(encoding="utf-8"))
    names, said = {}, io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(lines, names)
    return names | {"said": said.getvalue()}


def test_they_print_that_all_ten_are_found(names):
    assert names["said"].startswith("10 of 10 features")


def test_the_toy_model_has_ten_unit_directions_each_opposite_to_one_other(names):
    directions = names["toy_model"].feature_directions
    lengths, cosines = directions.norm(dim=1), cosine_similarity_matrix(directions, directions)
    opposite = cosines.argmin(dim=1)
    assert lengths.min() > 0.99 and lengths.max() < 1.01
    assert cosines.min(dim=1).values.max() < -0.999
    assert torch.equal(opposite[opposite], torch.arange(10))
    cosines[torch.arange(10), opposite] = 0
    assert (cosines - torch.eye(10)).abs().max() < 0.01  # and at a right angle to the rest


def test_all_ten_are_recovered_at_the_oracles_loss_and_were_not_there_at_the_start(names):
    directions, sae, history = names["toy_model"].feature_directions, names["sae"], names["history"]
    pool = names["activations"][:20_000]
    assert recovered(history.W_dec[0], directions) <= 1
    assert recovered(sae.W_dec, directions) == 10
    losses = [one.loss(pool, 1e-3).total for one in (sae, oracle_sae(directions, 1e-3))]
    torch.testing.assert_close(*losses, rtol=0.01, atol=0)
    x_hat, latent_acts = sae(pool)
    assert fvu(pool, x_hat) < 1e-4 and l0(latent_acts) < 2
    early = [on for step, on in zip(history.step, history.l0, strict=True) if step < 30]
    assert min(early) > 0.4 * early[0]  # below a third with an encoder twice as loud


def test_a_feature_is_found_if_its_latent_points_along_it_and_fires_with_it(names):
    toy_model, sae = names["toy_model"], copy.deepcopy(names["sae"])
    judged = judge(sae, toy_model)
    assert judged.found.all() and judged.cosine.min() >= 0.99 and judged.chance.shape == (200, 10)
    assert not judge(sae, toy_model, at=1.01).found.any()
    along = cosine_similarity_matrix(sae.W_dec, toy_model.feature_directions) >= 0.99
    start = sae.b_enc.detach().clone()
    for bias in (-9.0, -0.7, 9.0):  # feature 3's never fire; if it is strong; always
        sae.b_enc.data[along[:, 3]] = bias
        assert np.flatnonzero(~judge(sae, toy_model).found).tolist() == [3]
        sae.b_enc.data.copy_(start)
    sae.W_enc.data = sae.W_enc.data.roll(1, dims=1)
    assert judge(sae, toy_model).found.sum() < 5
    assert recovered(sae.W_dec, toy_model.feature_directions) == 10

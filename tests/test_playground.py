"""The playground's script, run by an embedded V8: it trains as the library does, and says so.

The page itself is tried in a browser by tests/test_browser.py.
"""

import json
import math
import re

import nbformat
import numpy as np
import pytest
import torch
from nbconvert import HTMLExporter
from py_mini_racer import MiniRacer

from sae_lib import SparseAutoencoder, cosine_similarity_matrix, fires, fvu, l0, recovered
from sae_lib.lesson.playground import PLAYGROUND, show_playground
from sae_lib.sae import random_directions
from sae_lib.training import minibatches, train_sae

SCRIPT = re.search(r"<script>(.*?)</script>", PLAYGROUND.read_text(encoding="utf-8"), re.DOTALL)
HELPERS = """
const plain = (value) => JSON.parse(JSON.stringify(value, (key, part) =>
  (ArrayBuffer.isView(part) ? [...part] : part)));

function trainOn(weights, batches, rates, price) {
  const sae = new SAE(5, 20, randomNumbers(0));
  for (const name in weights) sae[name].set(weights[name].flat());
  const losses = batches.map((x, k) =>
    sae.trainStep(Float64Array.from(x.flat()), x.length, price, rates[k]));
  return plain({ losses, sae });
}

/** The states after each phase [price, batches at most, whether only until all are found]. */
function phases(which, seed, plan) {
  const run = new Experiment({ ...CASES[which], seed });
  return plan.map(([price, batches, untilAll]) => {
    run.price = price;
    for (let k = 1; k <= batches; k++) {
      run.step();
      if (untilAll && k % 25 === 0 && (run.measure(), run.nFound === run.nFeatures)) break;
    }
    run.measure();
    const rows = run.sortedLatents(), route = run.route(run.features.subarray(0, run.dIn));
    return plain({ ...run, rows, route });
  });
}
"""


@pytest.fixture(scope="module")
def js():
    """js("name", *arguments) calls a function of the page's script, or of the helpers above."""
    context = MiniRacer()
    context.eval(SCRIPT.group(1) + HELPERS)

    def call(function, *arguments):
        listed = ", ".join(json.dumps(argument) for argument in arguments)
        return json.loads(context.eval(f"JSON.stringify({function}({listed}))"))

    return call


def matrix(rows: list[float], d: int) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).view(-1, d)


def weights_of(sae: dict, d: int) -> dict[str, torch.Tensor]:
    """The weights of an SAE of the page, as the library has them."""
    biases = {name: torch.tensor(sae[name], dtype=torch.float64) for name in ("b_enc", "b_dec")}
    return biases | {"W_enc": matrix(sae["W_encT"], d).T, "W_dec": matrix(sae["W_dec"], d)}


@pytest.mark.parametrize("price", [0.0, 0.05])
def test_two_hundred_steps_are_those_of_the_library(js, price):
    sae = SparseAutoencoder(5, 20, seed=2).double()
    pool = random_directions(1_000, 5, seed=1).double()
    start = {name: getattr(sae, name).tolist() for name in ("W_dec", "b_enc", "b_dec")}
    start["W_encT"] = sae.W_enc.T.tolist()
    batches = [x.tolist() for x in minibatches(pool, 32, 200, seed=3)]
    rates = [0.015 * (1 + math.cos(math.pi * step / 200)) for step in range(200)]
    settings = {"batch_size": 32, "n_steps": 200, "n_logged": 200, "seed": 3}
    history = train_sae(sae, pool, l1_coefficient=price, **settings)
    page = js("trainOn", start, batches, rates, price)
    weights = weights_of(page["sae"], 5)
    torch.testing.assert_close(weights, {**sae.state_dict()}, rtol=0, atol=1e-6)
    logged = [page["losses"][step] for step in history.step]
    np.testing.assert_allclose([x["error"] for x in logged], history.reconstruction, atol=1e-9)
    np.testing.assert_allclose([x["sparsity"] for x in logged], history.sparsity, atol=1e-9)


@pytest.mark.parametrize(
    ("which", "bias", "closest"), [(0, 0.4, 1e-3), (1, 0, 1e-3), (2, 0, 0.25), (3, 0, 0.35)]
)
def test_it_starts_as_the_library_but_for_the_bias_that_the_page_admits(js, which, bias, closest):
    """And the ground truth is spread evenly, and differs from start to start."""
    start, other = (js("phases", which, seed, [[0, 0, False]])[0] for seed in (1, 2))
    d_in, d_sae = start["dIn"], start["sae"]["dSae"]
    W_dec, W_enc = (matrix(start["sae"][name], d_in) for name in ("W_dec", "W_encT"))
    np.testing.assert_allclose(W_dec.norm(dim=1), 1)
    np.testing.assert_allclose(W_enc, 2 * d_in / d_sae * W_dec)
    assert set(start["sae"]["b_enc"]) == {bias} and set(start["sae"]["b_dec"]) == {0}
    truth = matrix(start["features"], d_in)
    assert start["features"] != other["features"]
    np.testing.assert_allclose(truth.norm(dim=1), 1)
    assert (truth @ truth.T - 2 * torch.eye(len(truth))).max() < closest


@pytest.mark.parametrize(("which", "price", "most"), [(0, 0.02, 2), (1, 0.01, 1), (2, 0.2, 1)])
def test_without_a_price_few_are_found_and_once_it_is_on_all(js, which, price, most):
    """And when it is off again they stay, but in the crowded case, where an error was left."""
    without = []
    for seed in range(3):
        plan = [[0, 300, False], [price, 1_500, True], [price, 200, False], [0, 300, False]]
        off, on, later, again = js("phases", which, seed, plan)
        n = on["nFeatures"]
        without.append(off["nFound"])
        assert off["error"] < 0.01 and on["nFound"] == n and later["l0"] < 2.5, seed
        assert (again["nFound"] >= 0.8 * n) == (later["error"] < 0.01) == (which < 2), seed
        assert off["detour"] > 1.5 and later["detour"] < 1.3, seed  # 1.57 is the least of 100
    assert np.median(without) <= most


@pytest.mark.parametrize(("which", "n", "d"), [(0, 4, 2), (1, 10, 5)])
def test_the_numbers_and_the_route_shown_are_the_librarys(js, which, n, d):
    without, run = js("phases", which, 3, [[0, 50, False], [0.3, 400, False]])
    x, truth = (matrix(run[name], d) for name in ("shown", "features"))
    sae = SparseAutoencoder(d, 2 * n).double()
    for state in (without, run):
        sae.load_state_dict(weights_of(state["sae"], d))
        with torch.no_grad():
            x_hat, acts = sae(x)
            one_hat, one = sae(truth[0])
        assert state["error"] == pytest.approx(fvu(x, x_hat))
        assert state["l0"] == pytest.approx(l0(acts))
        assert state["detour"] == pytest.approx((acts.sum() / x_hat.norm(dim=1).sum()).item())
        assert state["dead"] == (~fires(acts).any(dim=0)).tolist()
        route = state["route"]  # of the first feature, fully on
        pieces = [piece["latent"] for piece in route["stretches"]]
        assert pieces == one.nonzero().flatten().tolist()
        assert route["length"] == pytest.approx(one.sum().item())
        if d == 2:
            np.testing.assert_allclose(route["end"], one_hat, atol=1e-12)
    cosines = cosine_similarity_matrix(sae.W_dec, truth)
    np.testing.assert_allclose(matrix(run["cosines"], n), cosines, atol=1e-12)
    assert run["nFound"] == recovered(sae.W_dec, truth) > 0
    own, rest, dead = run["rows"]
    assert dead and sorted(own + rest + dead) == list(range(2 * n))
    assert all(run["dead"][i] for i in dead)
    assert all(cosines[own[j], j] >= min(0.99, cosines[:, j].max()) for j in range(n))


@pytest.mark.parametrize(("n", "d", "m"), [(4, 2, 8), (4, 2, 80), (20, 5, 80)])
def test_what_chance_finds(js, n, d, m):
    truth, n_draws = random_directions(n, d, seed=10_000), 4_000
    draws = random_directions(m * n_draws, d, seed=1).view(n_draws, m, d)
    found = ((draws @ truth.T).amax(dim=1) >= 0.99).sum(dim=1).double()
    assert js("chanceFinds", n, d, m) == pytest.approx(found.mean().item(), abs=0.05)


def test_it_stands_alone_in_a_frame_and_leaves_nothing_where_scripts_may_not_run(displayed):
    page = PLAYGROUND.read_bytes()
    assert len(page) < 36_000
    assert not re.search(rb"http|//[a-z]|\bsrc=|<link|@import|url\(|import\(|fetch\(", page)
    show_playground()
    output = nbformat.v4.new_output("display_data", displayed[-1])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[output])])
    pages = [
        HTMLExporter(sanitize_html=sanitised).from_notebook_node(notebook)[0]
        for sanitised in (False, True)
    ]
    assert "<iframe" in pages[0] and "<iframe" not in pages[1]
    assert '<div class="lm-Widget lm-mod-hidden">' in pages[1]  # hides what is left as text
    assert ".lm-Widget.lm-mod-hidden {\n  display: none !important;" in pages[1]

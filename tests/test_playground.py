"""The playground's script, run by an embedded V8: it trains as the library does, and says so.

The page itself is tried in a browser by tests/browser_playground.py.
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
function trainOn(weights, batches, rates, price) {
  const sae = new SAE(5, 20, randomNumbers(0));
  sae.weights.set(weights);
  const losses = batches.map((x, k) =>
    sae.trainStep(Float64Array.from(x), x.length / 5, price, rates[k]));
  return { losses, weights: [...sae.weights] };
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
    return JSON.parse(JSON.stringify({ ...run, rows, route }, (key, value) =>
      (ArrayBuffer.isView(value) ? [...value] : value)));
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


def matrix(rows: list[float], d: int = 5) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).view(-1, d)


def flat(sae: SparseAutoencoder) -> torch.Tensor:
    """The weights in the order of the page: row i of W_enc transposed is what latent i reads."""
    parts = sae.W_dec, sae.W_enc.T, sae.b_enc, sae.b_dec
    return torch.cat([part.detach().flatten() for part in parts])


@pytest.mark.parametrize("price", [0.0, 0.05])
def test_two_hundred_steps_are_those_of_the_library(js, price):
    n_steps, batch_size = 200, 32
    sae = SparseAutoencoder(5, 20, seed=2).double()
    rng = torch.Generator().manual_seed(1)
    features = torch.rand(1_000, 10, generator=rng, dtype=torch.float64)
    features *= torch.rand(1_000, 10, generator=rng) < 0.1
    pool = features @ random_directions(10, 5).double()
    before = flat(sae).tolist()
    batches = [x.flatten().tolist() for x in minibatches(pool, batch_size, n_steps, seed=3)]
    rates = [0.015 * (1 + math.cos(math.pi * step / n_steps)) for step in range(n_steps)]
    settings = {"batch_size": batch_size, "n_steps": n_steps, "n_logged": n_steps, "seed": 3}
    history = train_sae(sae, pool, l1_coefficient=price, **settings)
    page = js("trainOn", before, batches, rates, price)
    np.testing.assert_allclose(page["weights"], flat(sae), rtol=0, atol=1e-6)
    logged = [page["losses"][step] for step in history.step]
    np.testing.assert_allclose([x["error"] for x in logged], history.reconstruction, atol=1e-9)
    np.testing.assert_allclose([x["sparsity"] for x in logged], history.sparsity, atol=1e-9)


@pytest.mark.parametrize(
    ("which", "bias", "closest"), [(0, 0.4, 1e-3), (1, 0, 1e-3), (2, 0, 0.25), (3, 0, 0.35)]
)
def test_it_starts_as_the_library_but_for_the_bias_that_the_page_admits(js, which, bias, closest):
    """And the ground truth is spread evenly, and differs from start to start."""
    first, other = (js("phases", which, seed, [[0, 0, False]])[0] for seed in (1, 2))
    d_in, d_sae = first["dIn"], first["sae"]["dSae"]
    sae = SparseAutoencoder(d_in, d_sae)
    W_dec = matrix(first["sae"]["W_dec"], d_in)
    scale = (sae.W_enc.T / sae.W_dec).mean()
    np.testing.assert_allclose(W_dec.norm(dim=1), 1)
    np.testing.assert_allclose(matrix(first["sae"]["W_encT"], d_in), scale.item() * W_dec, 1e-5)
    assert set(first["sae"]["b_enc"]) == {bias} and set(first["sae"]["b_dec"]) == {0}
    truth = matrix(first["features"], d_in)
    assert first["features"] != other["features"]
    np.testing.assert_allclose(truth.norm(dim=1), 1)
    assert (truth @ truth.T - 2 * torch.eye(len(truth))).max() < closest


@pytest.mark.parametrize(("which", "price", "most"), [(0, 0.02, 2), (1, 0.01, 1), (2, 0.2, 1)])
def test_without_a_price_few_are_found_and_once_it_is_on_all(js, which, price, most):
    """And when it is off again they stay, but in the crowded case, where an error was left."""
    without = []
    for seed in range(5):
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
    W_dec, truth = matrix(run["sae"]["W_dec"], d), matrix(run["features"], d)
    cosines = matrix(run["cosines"], n)
    np.testing.assert_allclose(cosines, cosine_similarity_matrix(W_dec, truth), atol=1e-12)
    assert run["nFound"] == recovered(W_dec, truth) > 0
    sae, x = SparseAutoencoder(d, 2 * n).double(), matrix(run["shown"], d)
    for state in (without, run):
        for part, name in ((sae.W_dec, "W_dec"), (sae.b_enc, "b_enc"), (sae.b_dec, "b_dec")):
            part.data = matrix(state["sae"][name], part.shape[-1]).view(part.shape)
        sae.W_enc.data = matrix(state["sae"]["W_encT"], d).T
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

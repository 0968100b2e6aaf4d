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
const weightsOf = ({ W_dec, W_encT, b_enc, b_dec }) =>
  [W_dec, W_encT, b_enc, b_dec].map((part) => [...part]);

function trainOn(weights, dIn, dSae, batches, rates, price) {
  const sae = new SAE(dIn, dSae, randomNumbers(0));
  [sae.W_dec, sae.W_encT, sae.b_enc, sae.b_dec].forEach((part, i) => part.set(weights[i]));
  const losses = batches.map((x, step) =>
    sae.trainStep(Float64Array.from(x), x.length / dIn, price, rates[step]));
  return { losses, weights: weightsOf(sae) };
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
    const arrays = { cosines: [...run.cosines], features: [...run.features], shown: [...run.shown] };
    return { ...run, ...arrays, sae: weightsOf(run.sae), rows: run.sortedLatents(),
      route: run.dIn === 2 && run.route(run.features.subarray(0, 2)) };
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


def parts(sae: SparseAutoencoder) -> tuple[torch.Tensor, ...]:
    """The weights in the order and layout of the page: row i of W_enc transposed is latent i's."""
    return sae.W_dec.detach(), sae.W_enc.detach().T, sae.b_enc.detach(), sae.b_dec.detach()


@pytest.mark.parametrize("price", [0.0, 0.05])
def test_two_hundred_steps_are_those_of_the_library(js, price):
    n_steps, batch_size = 200, 32
    sae = SparseAutoencoder(5, 20, seed=2).double()
    rng = torch.Generator().manual_seed(1)
    features = torch.rand(1_000, 10, generator=rng, dtype=torch.float64)
    features *= torch.rand(1_000, 10, generator=rng) < 0.1
    pool = features @ random_directions(10, 5).double()
    before = [part.flatten().tolist() for part in parts(sae)]
    batches = [x.flatten().tolist() for x in minibatches(pool, batch_size, n_steps, seed=3)]
    rates = [0.015 * (1 + math.cos(math.pi * step / n_steps)) for step in range(n_steps)]
    settings = {"batch_size": batch_size, "n_steps": n_steps, "n_logged": n_steps, "seed": 3}
    history = train_sae(sae, pool, l1_coefficient=price, **settings)
    page = js("trainOn", before, 5, 20, batches, rates, price)
    for own, others in zip(page["weights"], parts(sae), strict=True):
        np.testing.assert_allclose(own, others.flatten(), rtol=0, atol=1e-6)
    logged = [page["losses"][step] for step in history.step]
    np.testing.assert_allclose([x["error"] for x in logged], history.reconstruction, atol=1e-9)
    np.testing.assert_allclose([x["sparsity"] for x in logged], history.sparsity, atol=1e-9)


@pytest.mark.parametrize(("which", "bias"), [(0, 0.4), (1, 0)])
def test_it_starts_as_the_library_but_for_the_bias_that_the_page_admits(js, which, bias):
    (start,) = js("phases", which, 1, [[0, 0, False]])
    W_dec, W_encT, b_enc, b_dec = (np.array(part) for part in start["sae"])
    d_in, d_sae = len(b_dec), len(b_enc)
    sae = SparseAutoencoder(d_in, d_sae)
    np.testing.assert_allclose(matrix(W_dec, d_in).norm(dim=1), 1)
    np.testing.assert_allclose(W_encT, (sae.W_enc.T / sae.W_dec).mean().item() * W_dec, rtol=1e-5)
    assert (b_enc == bias).all() and not b_dec.any()


@pytest.mark.parametrize(("which", "price", "most"), [(0, 0.02, 2), (1, 0.01, 1), (2, 0.2, 1)])
def test_without_a_price_few_are_found_and_once_it_is_on_all(js, which, price, most):
    """In the crowded case, where the price leaves an error, they go when it goes; else they stay."""
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


def test_the_numbers_shown_are_the_librarys(js):
    (run,) = js("phases", 1, 3, [[0.3, 400, False]])
    W_dec, truth = matrix(run["sae"][0]), matrix(run["features"])
    cosines = matrix(run["cosines"], 10)
    np.testing.assert_allclose(cosines, cosine_similarity_matrix(W_dec, truth), atol=1e-12)
    assert run["nFound"] == recovered(W_dec, truth) > 0
    sae, x = SparseAutoencoder(5, 20).double(), matrix(run["shown"])
    for part, of_the_page in zip(parts(sae), run["sae"], strict=True):
        part.copy_(torch.tensor(of_the_page).view(part.shape))
    x_hat, acts = sae(x)
    assert run["error"] == pytest.approx(fvu(x, x_hat))
    assert run["l0"] == pytest.approx(l0(acts))
    assert run["detour"] == pytest.approx((acts.sum() / x_hat.norm(dim=1).sum()).item())
    assert run["dead"] == (~fires(acts).any(dim=0)).tolist() and any(run["dead"])
    own, rest, dead = run["rows"]
    assert sorted(own + rest + dead) == list(range(20)) and all(run["dead"][i] for i in dead)
    assert all(cosines[own[j], j] >= min(0.99, cosines[:, j].max()) for j in range(10))


def test_a_route_ends_at_x_hat_and_is_as_long_as_all_that_fires(js):
    (run,) = js("phases", 0, 2, [[0, 100, False]])
    W_dec, W_encT, b_enc, _ = (np.array(part) for part in run["sae"])
    acts = np.maximum(0, W_encT.reshape(-1, 2) @ run["features"][:2] + b_enc)
    np.testing.assert_allclose(run["route"]["end"], acts @ W_dec.reshape(-1, 2), atol=1e-12)
    assert run["route"]["length"] == pytest.approx(acts.sum())
    assert [piece["latent"] for piece in run["route"]["stretches"]] == np.flatnonzero(acts).tolist()


@pytest.mark.parametrize(("which", "closest"), [(0, 1e-3), (1, 1e-3), (2, 0.25), (3, 0.35)])
def test_features_are_spread_evenly_and_differ_from_start_to_start(js, which, closest):
    first, other = (js("phases", which, seed, [[0, 0, False]])[0] for seed in (1, 2))
    truth = matrix(first["features"], first["dIn"])
    assert first["features"] != other["features"]
    cosines = truth @ truth.T
    np.testing.assert_allclose(cosines.diagonal(), 1)
    assert (cosines - 2 * torch.eye(len(truth))).max() < closest


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

"""The audit: what it looks at, what decides, what it writes."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from beyond import audit as module
from beyond import check_audit
from beyond.audit import audit, better, compare, gaussian_look_alike, look, prepare, shuffled
from beyond.audit_page import verdict
from sae_lib import TopKSparseAutoencoder, random_directions
from sae_lib.saving import load_sae


def features(n=3_000, n_features=20, d=8):
    rng = torch.Generator().manual_seed(0)
    on = torch.rand(n, n_features, generator=rng) < 0.1
    strengths = torch.rand(n, n_features, generator=rng) * on
    return 50 * strengths @ random_directions(n_features, d) + 1_000


def small_sae(k):
    return TopKSparseAutoencoder(8, 32, k=k)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The audit of sparse features, far from zero and long; its folder."""
    folder = tmp_path_factory.mktemp("features")
    labels = [f"<b>row {i}</b>" for i in range(3_000)]
    return audit(features(), labels, ks=(2,), n_steps=300, folder=folder), folder


def test_features_are_structure_and_noise_of_their_covariance_is_none(found):
    assert found[0].better == (True, True) and "there is sparse structure" in found[0].verdict
    noise = prepare(gaussian_look_alike(features(), 3_000, seed=5), seed=0)[:2]
    table, _ = compare(*noise, ks=[2], d_sae=32, n_steps=300)
    assert not better(table[2])[0]
    said = verdict(table, 2, *better(table[2]), 300)
    assert "nothing here that it couldn't do on noise" in said


def test_the_saved_sae_takes_raw_rows(found):
    folder = found[1]
    raw = features()[look(features())[0]]
    train, _, mean, scale = prepare(raw, seed=0)
    sae = module.trained(train, d_sae=32, k=2, n_steps=300, seed=0)
    x_hat, acts = load_sae(folder / "sae")(raw)
    same_x_hat, same_acts = sae((raw - mean) / scale)
    for saved, same in ((x_hat, same_x_hat * scale + mean), (acts, same_acts * scale)):
        is_close = (saved - same).abs().amax(dim=1) < 0.01  # float32, at a thousand
        assert is_close.float().mean() > 0.999  # of two latents alike, either may be the second
    assert acts.max() > 10
    written = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    assert np.allclose(written["mean"], mean) and written["scale"] == pytest.approx(scale)


def test_the_page_needs_nothing_else_and_shows_top_rows(found):
    result, folder = found
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="(?!data:)', page) == [] and page.count("<img") == 6
    assert "&lt;b&gt;row " in page and "<b>row " not in page
    acts = result.sae.encode(features())
    latent = result.latents[0]
    best = acts[:, latent["latent"]].argmax().item()
    assert latent["rows"][0] == best and latent["top"][0] == f"<b>row {best}</b>"
    share = (acts[:, latent["latent"]] > 0).float().mean().item()
    assert latent["fires"] == pytest.approx(share, rel=0.25)


def test_bad_rows_are_dropped_and_named():
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    x[:, 3] = 7
    x[0, 1], x[10], x[20] = torch.nan, x[11], torch.tensor([99.0, 0, 0, 7])
    kept, looks = look(x)
    assert sorted(set(range(300)) - set(kept.tolist())) == [0, 11, 20]
    for said in ("1 row was dropped: with NaN", "copy", "10 times as far", "1 column is constant"):
        assert said in " ".join(looks)


def test_controls_keep_what_they_should():
    x, noise = features(), gaussian_look_alike(features(), 100_000, seed=0)
    assert torch.allclose(torch.cov(noise.T), torch.cov(x.T), atol=0.05 * torch.cov(x.T).max())
    assert torch.allclose(noise.mean(dim=0), x.mean(dim=0), atol=0.5)
    mixed = shuffled(x, seed=0)
    assert torch.equal(mixed.sort(dim=0).values, x.sort(dim=0).values)
    assert torch.corrcoef(mixed.T).fill_diagonal_(0).abs().max() < 0.1


def test_better_by_more_than_seeds_differ_and_by_a_tenth():
    def judged(left, again):
        noise = {"unexplained": (0.5, 0.5), "again": 0.01}
        return better({"data": {"unexplained": left, "again": again}, "look-alike": noise})

    assert judged((0.2, 0.2), again=0.9) == (True, True)
    assert judged((0.2, 0.2), again=0.05) == (True, False)
    assert judged((0.1, 0.35), again=0.9) == (False, True)  # seeds differ by more
    assert judged((0.46, 0.46), again=0.9) == (False, True)  # by less than a tenth


def test_a_short_time_leaves_out_what_it_names(monkeypatch, tmp_path):
    clock = itertools.count()  # each SAE takes a second of it
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(module, "seconds_a_step", lambda train, d_sae, k: 0.01)
    monkeypatch.setattr(module, "trained", lambda *how: next(clock) and small_sae(how[2]))
    result = audit(features(), ks=(1, 2, 4), minutes=0.3, folder=tmp_path)
    assert list(result.table) == [2, 4]
    *gone, steps = result.settings["left out"]
    assert gone == ["k = 1", 'the control "shuffled"', 'the control "frozen decoder"']
    assert steps == f"batches {result.settings['n_steps'] + 1} to 1,000"


def test_the_table_of_the_docs_is_what_was_stored():
    docs = Path(module.__file__).parents[1] / "docs" / "audit.md"
    assert check_audit.table() in docs.read_text(encoding="utf-8")


@pytest.mark.parametrize("bad", [torch.zeros(3, 4, 5), [[1.0]], torch.eye(50), "x.csv"])
def test_bad_input_gets_one_sentence(bad, tmp_path):
    with pytest.raises((TypeError, ValueError), match=r"expected .*, got .*\.$"):
        module.read(tmp_path / bad) if bad == "x.csv" else audit(bad, folder=tmp_path)

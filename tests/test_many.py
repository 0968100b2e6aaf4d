"""A stack of SAEs is an SAE: variants train in it as alone, or are refused by name."""

import copy

import pytest
import torch
from torch import nn
from variants import (
    BatchTopK,
    Counting,
    FirstAxis,
    FirstAxisInGradient,
    FlatBatchTopK,
    FloatMean,
    JumpReLU,
    LateTensor,
    LeakyMean,
    Scaled,
)

from sae_lib import (
    SparseAutoencoder,
    TopKSparseAutoencoder,
    load_sae,
    random_directions,
    save_sae,
    train_sae,
    train_saes,
)
from sae_lib.stacking import stack_modules, unstack_

pytestmark = pytest.mark.usefixtures("global_random_state_untouched")
X = random_directions(64, 5, seed=1)
POOLS = torch.rand(3, 300, 5, generator=torch.Generator().manual_seed(0)).double() - 0.5
POOLS *= torch.tensor([1.0, 2.0, 0.5]).view(3, 1, 1)


def three(kind, **settings):
    """Three of a kind with seeds 0, 1, 2. In double precision rounding decides nothing."""
    return [kind(5, 20, seed=seed, **settings).double() for seed in range(3)]


def frozen_decoder(d_in, d_sae, *, seed):
    sae = SparseAutoencoder(d_in, d_sae, seed=seed)
    sae.W_dec.requires_grad_(False)
    return sae


VARIANTS = {
    "L1": lambda: three(SparseAutoencoder),
    "TopK": lambda: three(TopKSparseAutoencoder, k=2),
    "JumpReLU": lambda: three(JumpReLU),
    "BatchTopK": lambda: three(BatchTopK, k=2),
    "a loss with state": lambda: three(Counting),
    "buffers": lambda: three(Scaled),
    "a frozen decoder": lambda: three(frozen_decoder),
}


# --- stacking ---------------------------------------------------------------------------


def test_a_stack_has_one_more_axis_and_unstacking_gives_each_its_own_back():
    saes = three(Scaled)
    for i, sae in enumerate(saes):
        sae.size.fill_(i)
    before = copy.deepcopy(saes)
    stack = stack_modules(saes)
    shapes = {name: tuple(t.shape) for name, t in stack.state_dict().items()}
    assert shapes == {
        "W_enc": (3, 5, 20),
        "b_enc": (3, 1, 20),
        "W_dec": (3, 20, 5),
        "b_dec": (3, 1, 5),
        "activity": (3, 1, 20),
        "size": (3, 1, 1),
        "n_batches": (3, 1, 1),
    }
    with torch.no_grad():
        for number, tensor in enumerate(stack.state_dict().values(), start=1):
            tensor += number
    for sae, old in zip(saes, before, strict=True):  # a stack is a copy
        assert all(map(torch.equal, sae.state_dict().values(), old.state_dict().values()))
    kept = [dict(sae.named_parameters()) for sae in saes]
    unstack_(stack, saes)
    for sae, old, parameters in zip(saes, before, kept, strict=True):
        for number, (name, tensor) in enumerate(sae.state_dict().items(), start=1):
            assert torch.equal(tensor, old.state_dict()[name] + number)
        assert all(getattr(sae, name) is p for name, p in parameters.items())  # in place


def test_what_the_stack_counted_is_given_to_each_as_its_own():
    saes = three(SparseAutoencoder)
    for sae in saes:
        sae.seen = []
    stack = stack_modules(saes)
    stack.seen.append("a batch")
    unstack_(stack, saes)
    saes[0].seen.append("another")
    assert [sae.seen for sae in saes] == [["a batch", "another"], ["a batch"], ["a batch"]]


# --- variants ---------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_saes_trained_together_end_where_each_ends_alone(variant):
    together, alone = VARIANTS[variant](), VARIANTS[variant]()
    prices, seeds = [1e-3, 0.1, 1e-2], [3, 4, 5]
    settings = {"l1_start": 0.2, "n_steps": 120, "batch_size": 32, "n_logged": 20, "lr": 0.02}
    start = [copy.deepcopy(sae.state_dict()) for sae in alone]
    histories = train_saes(together, POOLS, l1_coefficient=prices, seeds=seeds, **settings)
    for i, sae in enumerate(alone):
        history = train_sae(sae, POOLS[i], l1_coefficient=prices[i], seed=seeds[i], **settings)
        for logged, logged_alone in zip(histories[i], history, strict=True):
            torch.testing.assert_close(logged, logged_alone, atol=1e-8, rtol=1e-6)
        for name, tensor in sae.state_dict().items():
            given = together[i].state_dict()[name]
            torch.testing.assert_close(given, tensor, atol=1e-8, rtol=1e-6)
            is_still = name in ("size", "W_dec") and (name == "size" or "frozen" in variant)
            assert torch.equal(tensor, start[i][name]) == is_still, name  # the rest has moved
    if variant == "a loss with state":
        assert [sae.n_calls for sae in together + alone] == [120] * 6
    if variant == "buffers":
        assert [sae.n_batches.item() for sae in together + alone] == [120] * 6


def test_a_variant_is_its_own_class_and_not_its_parent():
    """Else the test above could pass with the parent's lines everywhere."""
    saes = [SparseAutoencoder(5, 20), JumpReLU(5, 20), BatchTopK(5, 20, k=2)]
    codes = [sae.encode(X) for sae in saes]
    n_fired = [(code > 0).sum().item() for code in codes]
    assert (codes[1][codes[1] > 0] > 0.05).all() and n_fired[1] < n_fired[0]
    assert n_fired[2] == 2 * len(X) and (codes[2] > 0).sum(dim=1).max() > 2
    loss = saes[1].loss(X, 0.5)
    assert loss.sparsity.item() == pytest.approx(0.5 * n_fired[1] / len(X))
    loss.total.backward()
    assert (saes[1].log_threshold.grad != 0).any()  # through the step, which has no slope


@pytest.mark.parametrize("variant", ["L1", "TopK", "JumpReLU", "BatchTopK", "buffers"])
def test_a_trained_variant_is_saved_and_loaded_as_what_it_is(variant, tmp_path):
    saes = VARIANTS[variant]()
    train_saes(saes, POOLS, n_steps=5)
    for i, sae in enumerate(saes):
        save_sae(sae, tmp_path / f"{i}")
        loaded = load_sae(tmp_path / f"{i}")
        assert type(loaded) is type(sae)
        assert loaded.state_dict().keys() == sae.state_dict().keys()
        assert all(map(torch.equal, loaded.state_dict().values(), sae.state_dict().values()))
        assert all(map(torch.equal, loaded(X.double()), sae(X.double())))
        assert loaded.loss(X.double(), 0.1).total == sae.loss(X.double(), 0.1).total


# --- refused by name --------------------------------------------------------------------


class WithModule(SparseAutoencoder):
    def __init__(self, d_in, d_sae, *, seed=0):
        super().__init__(d_in, d_sae, seed=seed)
        self.norm = nn.LayerNorm(d_in)


def with_attribute(name, values):
    saes = three(SparseAutoencoder)
    for sae, value in zip(saes, values, strict=True):
        setattr(sae, name, value)
    return saes


def other_last(last):
    return [*three(SparseAutoencoder)[:2], last]


REFUSED = {
    "k": ([TopKSparseAutoencoder(5, 20, k=k) for k in (2, 3)], "their k differs: 2 and 3"),
    "another setting": ([JumpReLU(5, 20, width=w) for w in (0.1, 0.2)], "their width differs"),
    "an attribute": (with_attribute("mood", "aab"), "their mood differs: a and b"),
    "a late attribute": (with_attribute("n_calls", [0, 0, 7]), "n_calls differs: 0 and 7"),
    "class": (other_last(TopKSparseAutoencoder(5, 20, k=2)), "their class differs"),
    "shape": (other_last(SparseAutoencoder(5, 21).double()), "shape of W_enc differs"),
    "dtype": (other_last(SparseAutoencoder(5, 20)), "dtype of W_enc differs"),
    "frozen": (other_last(frozen_decoder(5, 20, seed=0).double()), "frozen state of W_dec differs"),
    "mode": (other_last(SparseAutoencoder(5, 20).double().eval()), r"mode \(train or eval\) diff"),
    "the same twice": ([SparseAutoencoder(5, 20)] * 2, "The same SparseAutoencoder came twice"),
    "no module": ([SparseAutoencoder(5, 20), "b"], r"\['SparseAutoencoder', 'str'\] came"),
    "a module inside": (three(WithModule), "A WithModule has modules inside it"),
    "a tensor": (with_attribute("t", torch.ones(3)), "`t` of SparseAutoencoder is a plain tensor"),
    "an array": (with_attribute("t", torch.ones(3, 1).numpy()), "`t` of .* is a plain tensor"),
    "a tensor kept later": (three(LateTensor), "`last` of LateTensor is a plain tensor"),
    "a flat batch": (three(FlatBatchTopK, k=2), "FlatBatchTopK has another loss"),
    "two flat batches": (three(FlatBatchTopK, k=2)[:2], "FlatBatchTopK has another loss"),
    "the first axis": (three(FirstAxis), "FirstAxis has another loss in a stack than alone"),
    "its gradient": (three(FirstAxisInGradient), "FirstAxisInGradient has another gradient of W_"),
    "a float from data": (three(FloatMean), "FloatMean has another loss"),
    "an axis lost": (three(LeakyMean), "LeakyMean (has another|does not broadcast)"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_stack_would_mix_up_is_refused_by_name(what):
    saes, message = REFUSED[what]
    before = [copy.deepcopy(sae) for sae in saes]
    with pytest.raises((ValueError, TypeError), match=message):
        train_saes(saes, POOLS[: len(saes)], n_steps=2)
    for sae, old in zip(saes, before, strict=True):
        if isinstance(sae, nn.Module):  # and nothing was trained, nothing counted
            assert all(map(torch.equal, sae.state_dict().values(), old.state_dict().values()))
            assert {n for n in vars(sae)} == {n for n in vars(old)}


def test_twins_that_see_the_same_data_do_not_hide_that_they_would_be_mixed_up():
    twins = [FlatBatchTopK(5, 20, k=2) for _ in range(2)]
    with pytest.raises(ValueError, match="FlatBatchTopK has another loss"):
        train_saes(twins, POOLS[0], l1_coefficient=[0, 0.1], n_steps=2)


@pytest.mark.parametrize("kind", [FlatBatchTopK, FloatMean, FirstAxis])
def test_what_a_stack_refuses_trains_alone(kind):
    sae = kind(5, 20, **({"k": 2} if kind is FlatBatchTopK else {}))
    history = train_sae(sae, POOLS[0], n_steps=60, lr=0.01)
    assert history.reconstruction[-1] < history.reconstruction[0] / 2


def test_a_norm_along_the_wrong_axis_of_a_stack_is_refused():
    class FromTheFront(SparseAutoencoder):
        @torch.no_grad()
        def normalize_decoder_(self):
            self.W_dec /= self.W_dec.norm(dim=1, keepdim=True)

    with pytest.raises(ValueError, match="another normalised W_dec in a stack"):
        train_saes([FromTheFront(5, 20, seed=s) for s in range(2)], POOLS[:2], n_steps=2)

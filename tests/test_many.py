"""A stack of SAEs is an SAE: variants train in it as alone, or are refused in one sentence."""

import copy

import numpy as np
import pytest
import torch
import variants
from torch import nn
from variants import same_weights

import sae_lib
from sae_lib import SparseAutoencoder, TopKSparseAutoencoder, ToyModel, random_directions
from sae_lib.many import stack_modules, train_saes, train_toy_models, unstack_
from sae_lib.training import TrainingHistory, minibatches, train_sae

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
    "a threshold that is learned": lambda: three(variants.Gated),
    "BatchTopK": lambda: three(variants.BatchTopK, k=2),
    "a loss with state, that keeps its graph": lambda: three(variants.Keeping),
    "buffers": lambda: three(variants.Scaled),
    "a frozen decoder": lambda: three(frozen_decoder),
}


def test_a_stack_has_one_more_axis_and_unstacking_gives_each_its_own_back():
    saes = three(variants.Scaled)
    for i, sae in enumerate(saes):
        sae.size.fill_(i)
    before = copy.deepcopy(saes)
    stack = stack_modules(saes, range(3))
    shapes = {tuple(tensor.shape) for tensor in stack.state_dict().values()}
    assert shapes == {(3, 5, 20), (3, 1, 20), (3, 20, 5), (3, 1, 5), (3, 1, 1)}
    with torch.no_grad():
        for number, tensor in enumerate(stack.state_dict().values(), start=1):
            tensor += number
    assert all(map(same_weights, saes, before))  # a stack is a copy
    kept = [dict(sae.named_parameters()) for sae in saes]
    unstack_(stack, saes)
    for sae, old, parameters in zip(saes, before, kept, strict=True):
        for number, (name, tensor) in enumerate(sae.state_dict().items(), start=1):
            assert torch.equal(tensor, old.state_dict()[name] + number)
        assert all(getattr(sae, name) is p for name, p in parameters.items())  # in place


@pytest.mark.usefixtures("global_random_state_untouched")
@pytest.mark.parametrize("variant", VARIANTS)
def test_saes_trained_together_end_where_each_ends_alone(variant):
    together, alone = VARIANTS[variant](), VARIANTS[variant]()
    seeds = [3, 4, 5]
    settings = {
        "l1_coefficient": 1e-2,
        "l1_start": 0.2,
        "n_steps": 120,
        "batch_size": 32,
        "n_logged": 20,
        "lr": 0.02,
    }
    start = [{n: t.clone() for n, t in sae.state_dict().items()} for sae in alone]
    histories = train_saes(together, POOLS, seeds=seeds, **settings)
    for i, sae in enumerate(alone):
        history = train_sae(sae, POOLS[i], seed=seeds[i], **settings)
        for name, logged in vars(history).items():
            if isinstance(logged, list):
                given = np.array(getattr(histories[i], name))
                np.testing.assert_allclose(given, np.array(logged), atol=1e-8, rtol=1e-6)
        for name, tensor in sae.state_dict().items():
            given = together[i].state_dict()[name]
            torch.testing.assert_close(given, tensor, atol=1e-8, rtol=1e-6)
            if name != "size" and (name != "W_dec" or "frozen" not in variant):
                assert not torch.equal(tensor, start[i][name]), name  # it has moved
    if "state" in variant:
        assert [sae.n_calls for sae in together + alone] == [120] * 6
        train_saes(alone, POOLS, seeds=seeds, n_steps=2)  # which keep a graph from before
    if variant == "buffers":
        assert [sae.n_batches.item() for sae in together + alone] == [120] * 6


def test_batch_topk_is_not_its_parent():
    """Else the test above could pass with the parent's lines. Other variants move what they add."""
    has_fired = variants.BatchTopK(5, 20, k=2).encode(random_directions(64, 5)) > 0
    assert has_fired.sum() == 2 * 64 and has_fired.sum(dim=1).max() > 2


def test_one_pool_and_one_price_serve_all():
    shared, spelt_out = three(SparseAutoencoder), three(SparseAutoencoder)
    train_saes(shared, POOLS[0].numpy(), seeds=np.arange(3), l1_coefficient=0.1, n_steps=20)
    pools = POOLS[:1].expand(3, -1, -1)
    train_saes(spelt_out, pools, l1_coefficient=0.1, seeds=[0, 1, 2], n_steps=20)
    assert all(map(same_weights, shared, spelt_out))
    assert not torch.equal(shared[0].W_dec, shared[1].W_dec)


def loop(sae, activations, *, l1_coefficient=1e-3, seed, n_steps, noise=0.0, clip=None, **how):
    """A loop that a reader might write; with slips, for a stack, where `how` names them."""
    optimizer = torch.optim.SGD(sae.parameters(), lr=0.1)
    if "adam" in how:
        optimizer = torch.optim.Adam(sae.parameters(), eps=1e-16)
    history = TrainingHistory(n_steps, 10)
    for step, x in enumerate(minibatches(sae, activations, 16, n_steps, seed)):
        loss = sae.loss(x + noise * torch.randn_like(x), l1_coefficient)
        history.log(step, sae, x, loss)
        if "stop" in how and loss.total < 1e-9:
            break
        optimizer.zero_grad()
        (loss.total.mean() if "mean" in how else loss.total.sum()).backward()
        if clip:
            nn.utils.clip_grad_norm_(sae.parameters(), clip)
        optimizer.step()
    return history


def test_the_loop_that_is_given_is_the_one_that_trains():
    together, alone = three(SparseAutoencoder), three(SparseAutoencoder)
    histories = train_saes(together, POOLS, seeds=[3, 4, 5], n_steps=30, train=loop)
    for i, sae in enumerate(alone):
        loop(sae, POOLS[i], l1_coefficient=1e-3, seed=3 + i, n_steps=30)
        torch.testing.assert_close(sae.state_dict(), together[i].state_dict(), atol=1e-9, rtol=1e-6)
        assert histories[i].step[-1] == 29


class WithModule(SparseAutoencoder):
    def __init__(self, d_in, d_sae, *, seed=0):
        super().__init__(d_in, d_sae, seed=seed)
        self.norm = nn.LayerNorm(d_in)


def other_last(last):
    return [*three(SparseAutoencoder)[:2], last]


DIFFER = "of one class, .*shapes and the same settings, but these came"
ANOTHER = "A stack of this class, in this loop, gets another"
REFUSED = {
    "k": (DIFFER, lambda: [TopKSparseAutoencoder(5, 20, k=k) for k in (1, 2, 3)]),
    "class": (DIFFER, lambda: other_last(TopKSparseAutoencoder(5, 20, k=2).double())),
    "shape": (DIFFER, lambda: other_last(SparseAutoencoder(5, 21).double())),
    "dtype": (DIFFER, lambda: other_last(SparseAutoencoder(5, 20))),
    "frozen": (DIFFER, lambda: other_last(frozen_decoder(5, 20, seed=0).double())),
    "a module inside": ("no modules inside", lambda: three(WithModule)),
    "a flat batch": (ANOTHER, lambda: three(variants.FlatBatchTopK, k=2)),
    "the first axis": (ANOTHER, lambda: three(variants.FirstAxis)),
    "a float from data": (ANOTHER, lambda: three(variants.FloatMean)),
}
MIXING = {
    "gradient clipping over all": (ANOTHER, {"clip": 1e-3}),
    "the mean of the totals": (ANOTHER, {"mean": True}),
    "a mean whose size Adam hides": (ANOTHER, {"mean": True, "adam": True}),
    "noise from the global generator": (ANOTHER, {"noise": 0.1}),
    "stopping early": ("does not take a stack of SAEs: Boolean value of Tensor", {"stop": True}),
}


def refuses(saes, message, **settings):
    """It says so in one sentence, and has trained nothing."""
    before = copy.deepcopy(saes)
    with pytest.raises(ValueError, match=message) as raised:
        train_saes(saes, POOLS, seeds=range(3), **settings)
    assert "\n" not in str(raised.value)
    assert all(map(same_weights, saes, before))


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_stack_would_mix_up_is_refused(what):
    message, make = REFUSED[what]
    refuses(make(), message, n_steps=2)


@pytest.mark.parametrize("what", MIXING)
def test_a_loop_that_mixes_the_saes_is_refused_though_alone_it_may(what):
    message, slip = MIXING[what]
    saes = three(SparseAutoencoder)
    refuses(saes, message, n_steps=30, train=loop, **slip)
    loop(saes[0], POOLS[0], l1_coefficient=1e-3, seed=0, n_steps=30, **slip)


def test_twins_that_see_the_same_data_do_not_hide_that_they_would_be_mixed_up():
    twins = [variants.FlatBatchTopK(5, 20, k=2) for _ in range(2)]
    with pytest.raises(ValueError, match=ANOTHER):
        train_saes(twins, POOLS[0], seeds=[0, 0], n_steps=2)


def test_there_is_a_seed_for_each():
    with pytest.raises(ValueError, match="seeds must have 3 entries, one each; 2 came"):
        train_saes(three(SparseAutoencoder), POOLS, seeds=[0, 1])
    with pytest.raises(ValueError, match="seeds must have 2 entries, one each; 1 came"):
        train_toy_models([ToyModel(), ToyModel()], seeds=[1])
    with pytest.raises(ValueError, match="these came"):
        train_toy_models([ToyModel(), ToyModel(sparsity=0.5)], seeds=[0, 1])


def test_one_in_the_middle_that_differs_in_class_or_in_a_list_of_numbers_is_refused():
    class SparseAutoencoder(sae_lib.SparseAutoencoder):  # as after a cell that was run again
        pass

    saes = three(sae_lib.SparseAutoencoder)
    refuses([saes[0], SparseAutoencoder(5, 20).double(), saes[2]], "one class")
    for sae, sizes in zip(saes, [(4, 8), (10,), (4, 8)], strict=True):
        sae.sizes = sizes
    refuses(saes, "these came")

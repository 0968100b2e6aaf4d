"""For all tests: one thread, no windows; SAEs trained once and shared."""

import random
from typing import NamedTuple

import matplotlib
import numpy as np
import pytest
import torch

from sae_lib import FALLING_PRICE, SparseAutoencoder, ToyModel, train_saes, train_toy_models
from sae_lib.lesson import playground, show, verdict
from sae_lib.training import TrainingHistory

matplotlib.use("Agg")
torch.set_num_threads(1)  # tensors this small are slower when shared out
SEEDS = range(4)


class Trained(NamedTuple):
    """Entry i of each list belongs to seed i; pools (4, n, 5) come from features (4, n, 10)."""

    models: list[ToyModel]
    features: torch.Tensor
    pools: torch.Tensor
    saes: list[SparseAutoencoder]
    histories: list[TrainingHistory]


@pytest.fixture(scope="session")
def trained() -> Trained:
    """Four toy models and an SAE for each, with the price that falls. Do not write to it."""
    models = [ToyModel(seed=seed) for seed in SEEDS]
    train_toy_models(models)
    features = torch.stack([m.sample_features(20_000, seed=100 + i) for i, m in enumerate(models)])
    with torch.no_grad():
        pools = torch.stack([m.encode(f) for m, f in zip(models, features, strict=True)])
    saes = [SparseAutoencoder(5, 20, seed=seed) for seed in SEEDS]
    histories = train_saes(saes, pools, **FALLING_PRICE)
    return Trained(models, features, pools, saes, histories)


@pytest.fixture(scope="module")
def displayed():
    """What the lessons display goes into this list, and nowhere else."""
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        for module in (show, playground, verdict):
            patch.setattr(module, "display", lambda data, **options: shown.append(data))
        yield shown


@pytest.fixture
def global_random_state_untouched():
    """Fails the test if it moved a global random generator: a seed must be enough."""
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    yield
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]

"""For all tests: one thread, no progress bars, no windows; SAEs trained once and shared."""

import os

os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it when it is imported

import random
import sys
from typing import NamedTuple

import matplotlib
import numpy as np
import pytest
import torch

from sae_lib import (
    FALLING_PRICE,
    SparseAutoencoder,
    ToyModel,
    TrainingHistory,
    train_saes,
    train_toy_models,
)

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
    saes_without_l1: list[SparseAutoencoder]  # on the pools of seeds 0 and 1


@pytest.fixture(scope="session")
def trained() -> Trained:
    """Four base models, an SAE for each with the price that falls, and two at λ = 0.

    Shared by all tests: do not write to it.
    """
    models = [ToyModel(seed=seed) for seed in SEEDS]
    train_toy_models(models, seeds=SEEDS)
    features = torch.stack([m.sample_features(20_000, seed=100 + i) for i, m in enumerate(models)])
    with torch.no_grad():
        pools = torch.stack([m.encode(f) for m, f in zip(models, features, strict=True)])
    saes = [SparseAutoencoder(5, 20, seed=seed) for seed in SEEDS]
    histories = train_saes(saes, pools, seeds=SEEDS, **FALLING_PRICE)
    without_l1 = [SparseAutoencoder(5, 20, seed=seed) for seed in (0, 1)]
    train_saes(without_l1, pools[:2], l1_coefficient=0, seeds=(0, 1), n_steps=1_500, lr=0.05)
    return Trained(models, features, pools, saes, histories, without_l1)


@pytest.fixture
def global_random_state_untouched():
    """Fails the test if it moved a global random generator: a seed must be enough."""
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    yield
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]


@pytest.fixture
def own_library():
    """Afterwards the library gets back what `sae_lib.lesson.use` has taken from it."""
    modules = [m for name, m in sys.modules.items() if name.split(".")[0] == "sae_lib"]
    before = [(module, dict(vars(module))) for module in modules]
    kinds = [SparseAutoencoder]
    for kind in kinds:  # grows while it is walked through
        kinds.extend(kind.__subclasses__())
    bases = [(kind, kind.__bases__) for kind in kinds]
    yield
    for module, contents in before:
        vars(module).update(contents)
    for kind, its_bases in bases:
        kind.__bases__ = its_bases

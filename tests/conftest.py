"""For all tests: one thread, no windows."""

import random

import matplotlib
import numpy as np
import pytest
import torch

from sae_lib.lesson import playground, show, verdict

matplotlib.use("Agg")
torch.set_num_threads(1)  # tensors this small are slower when shared out


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

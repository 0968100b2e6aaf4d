"""The notebook's settings, looked at before anything is trained."""

import math
from collections.abc import Mapping
from numbers import Integral, Real

LIMITS = {  # name: kind, smallest, largest
    "SEED": (Integral, 0, 2**31),  # the lesson adds small numbers; scikit-learn stops at 2^32
    "N_FEATURES": (Integral, 1, 10_000),
    "N_HIDDEN": (Integral, 1, 10_000),
    "SPARSITY": (Real, 0, 0.999),
    "D_SAE": (Integral, 1, 10_000),
    "L1_COEFFICIENT": (Real, 0, math.inf),
    "N_STEPS": (Integral, 2, 10**7),
    "BATCH_SIZE": (Integral, 1, 10**6),
    "LEARNING_RATE": (Real, 0, math.inf),
    "NORMALIZE_DECODER": (bool, False, True),
    "N_SAMPLES": (Integral, 1_000, 10**8),
    "RECOVERED": (Real, 0.001, 1),
}
MOST_BYTES = 8 * 2**30


def check_settings(names: Mapping) -> dict:
    """The settings among `names` (the notebook's globals); raise, in one sentence, if one of them
    cannot work: TypeError for another kind of value, ValueError for one out of bounds."""
    settings = {name: names[name] for name in LIMITS}
    for name, (kind, smallest, largest) in LIMITS.items():
        value = settings[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            wanted = {Integral: "a whole number", Real: "a number", bool: "True or False"}[kind]
            raise TypeError(f"{name} must be {wanted}, but {value!r} came.")
        if not (smallest <= value <= largest and math.isfinite(value)):
            raise ValueError(f"{name} must lie between {smallest} and {largest}; {value} came.")
    widest = max(settings["D_SAE"], settings["N_FEATURES"], settings["N_HIDDEN"])
    needed = 6 * 4 * widest * (settings["N_SAMPLES"] + settings["BATCH_SIZE"])
    if needed > MOST_BYTES:
        raise ValueError(
            f"These settings need about {needed / 2**30:.0f} GiB of memory: lower D_SAE, "
            "N_FEATURES, N_HIDDEN, N_SAMPLES or BATCH_SIZE."
        )
    return settings

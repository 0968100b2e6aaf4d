"""The settings cell of the notebook: every number looked at before anything is trained."""

from collections.abc import Mapping

import psutil

from sae_lib.validation import require_non_negative, require_positive_int, require_seed

SIZES = ("N_FEATURES", "N_HIDDEN", "D_SAE", "N_STEPS", "BATCH_SIZE", "N_SAMPLES")
NUMBERS = ("SPARSITY", "L1_COEFFICIENT", "LEARNING_RATE", "RECOVERED")


def check_settings(names: Mapping) -> None:
    """Raise, in one sentence, if a setting in `names` (the notebook's globals) cannot work."""
    require_seed(SEED=names["SEED"])
    if names["SEED"] > 2**31:  # the lesson adds small numbers to it, and scikit-learn stops at 2^32
        raise ValueError(f"SEED must be at most 2**31, but {names['SEED']} came.")
    require_positive_int(**{name: names[name] for name in SIZES})
    require_non_negative(**{name: names[name] for name in NUMBERS})
    if names["SPARSITY"] >= 1:
        raise ValueError(f"SPARSITY must lie in [0, 1), but {names['SPARSITY']} came.")
    if not 0 < names["RECOVERED"] <= 1:
        raise ValueError(f"RECOVERED must lie in (0, 1], but {names['RECOVERED']} came.")
    if not isinstance(names["NORMALIZE_DECODER"], bool):
        came = names["NORMALIZE_DECODER"]
        raise TypeError(f"NORMALIZE_DECODER must be True or False, but {came!r} came.")
    if names["N_STEPS"] < 2:
        raise ValueError(f"N_STEPS must be at least 2, but {names['N_STEPS']} came.")
    if names["N_SAMPLES"] < 1_000:
        raise ValueError(f"N_SAMPLES must be at least 1,000, but {names['N_SAMPLES']} came.")
    widest = max(names["D_SAE"], names["N_FEATURES"], names["N_HIDDEN"])
    rows = names["N_SAMPLES"] + names["BATCH_SIZE"]
    rows += 60 * max(names["N_HIDDEN"], names["N_FEATURES"])
    needed, free = 6 * 4 * widest * rows, psutil.virtual_memory().available
    if needed > free:
        raise ValueError(
            f"These settings need about {needed / 2**30:.0f} GiB of memory, and {free / 2**30:.0f} "
            "GiB are free: lower D_SAE, N_FEATURES, N_HIDDEN or N_SAMPLES."
        )

"""What a learner passes in, looked at once: one sentence if it cannot work."""

from numbers import Integral, Real

import numpy as np
import torch


def finite(name: str, x, n_columns: int | None = None) -> torch.Tensor:
    """x as a detached tensor of floats; raise unless it is finite, not empty, and, where n_columns
    is given, a matrix of so many columns (0: of any number)."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected plain numbers, got a masked array; try {name}.filled().")
    if isinstance(x, np.ndarray):
        x = torch.from_numpy(np.require(x, requirements="CW"))  # views, read-only arrays
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name}: expected a tensor or an array, got a {type(x).__name__}.")
    if not x.is_floating_point():
        raise TypeError(f"{name}: expected floats, got {x.dtype}; try {name}.float().")
    if x.numel() == 0:
        raise ValueError(f"{name}: expected some rows, got the shape {tuple(x.shape)}.")
    if n_columns is not None and (x.ndim != 2 or x.shape[1] != (n_columns or x.shape[1])):
        expected = n_columns or "columns"
        raise ValueError(f"{name}: expected the shape (rows, {expected}), got {tuple(x.shape)}.")
    x = x.detach()
    if not torch.isfinite(x).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinite ones.")
    return x if x.dtype in (torch.float32, torch.float64) else x.float()  # half: NumPy has no word


def whole(name: str, value, least: int, most: int) -> int:
    """value as an int; raise unless it is a whole number from least to most."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected a whole number, got {value!r}.")
    if not least <= value <= most:
        raise ValueError(f"{name}: expected {least:,} to {most:,}, got {value:,}.")
    return int(value)


def real(name: str, value, least: float, most: float) -> float:
    """value as a float; raise unless it is a number from least to most."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {value!r}.")
    if not least <= value <= most:  # also if it is nan
        raise ValueError(f"{name}: expected {least:g} to {most:g}, got {value:g}.")
    return float(value)

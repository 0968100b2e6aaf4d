"""Checks at the public doors: one sentence that says what came and what is wanted."""

import math
from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np
import torch


def require_positive_int(**sizes: Integral) -> None:
    """Raise unless every named size is a whole number of at least 1 (NumPy's count too)."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, Integral):
            raise TypeError(f"{name} must be an int, but a {type(size).__name__} came: {size!r}.")
        if size < 1:
            raise ValueError(f"{name} must be at least 1, but {size} came.")


def require_non_negative(**numbers: Real) -> None:
    """Raise unless every named number is finite and not below zero (NumPy's count too)."""
    for name, number in numbers.items():
        if isinstance(number, (bool, np.bool_)) or not isinstance(number, Real):
            came = type(number).__name__
            raise TypeError(f"{name} must be a number, but a {came} came: {number!r}.")
        if not math.isfinite(number) or number < 0:
            raise ValueError(f"{name} must be finite and not negative, but {number} came.")


def require_seed(**seeds: Integral) -> None:
    """Raise unless every named seed is a whole number from 0 up to 2^63 - 1."""
    for name, seed in seeds.items():
        if isinstance(seed, bool) or not isinstance(seed, Integral):
            raise TypeError(f"{name} must be an int, but a {type(seed).__name__} came: {seed!r}.")
        if not 0 <= seed < 2**63:
            raise ValueError(f"{name} must lie between 0 and 2**63 - 1, but {seed} came.")


def require_list(name: str, values: Sequence) -> list:
    """`values` as a list; raise if it is no sequence (or array), or empty."""
    is_number = getattr(values, "ndim", 1) == 0
    if isinstance(values, (str, bytes)) or is_number or not hasattr(values, "__len__"):
        raise TypeError(f"{name} must be a list, but a {type(values).__name__} came.")
    if len(values) == 0:
        raise ValueError(f"{name} must have at least one entry, but it is empty.")
    return values.tolist() if hasattr(values, "tolist") else list(values)


def require_one_each(name: str, values: Sequence, n: int) -> list:
    """`values` as a list of n; raise if it is no sequence (or array), or of another length."""
    values = require_list(name, values)
    if len(values) != n:
        raise ValueError(f"{name} must have {n} entries, one for each, but {len(values)} came.")
    return values


def finite_matrix(name: str, x, n_columns: int | None = None) -> torch.Tensor:
    """x as a detached tensor; raise unless it is a non-empty, finite matrix of floats."""
    x = float_tensor(name, x)
    if x.ndim != 2 or (n_columns is not None and x.shape[1] != n_columns):
        wanted = "columns" if n_columns is None else n_columns
        raise ValueError(f"{name} must have shape (rows, {wanted}), but {tuple(x.shape)} came.")
    return x


def float_tensor(name: str, x) -> torch.Tensor:
    """x as a detached tensor; raise unless it holds finite floats, at least one."""
    if isinstance(x, np.ndarray):
        x = torch.as_tensor(x)
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a tensor or an array, but a {type(x).__name__} came.")
    if not x.is_floating_point():
        raise TypeError(f"{name} must hold floats, but {x.dtype} came; try {name}.float().")
    if x.numel() == 0:
        raise ValueError(f"{name} is empty: its shape is {tuple(x.shape)}.")
    x = x.detach()
    if not torch.isfinite(x).all():
        raise ValueError(f"{name} holds NaN or infinite values; it must be finite everywhere.")
    return x

"""Checks at the door: one sentence that says what came and what is wanted."""

import math

import torch


def require_positive_int(**sizes: int) -> None:
    """Raise unless every named size is an int of at least 1."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"{name} must be an int, but a {type(size).__name__} came: {size!r}.")
        if size < 1:
            raise ValueError(f"{name} must be at least 1, but {size} came.")


def require_non_negative(**numbers: float) -> None:
    """Raise unless every named number is finite and not below zero."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise TypeError(f"{name} must be a number, but a {type(number).__name__} came.")
        if not math.isfinite(number) or number < 0:
            raise ValueError(f"{name} must be finite and not negative, but {number} came.")


def require_float_tensor(name: str, x: torch.Tensor, last_dim: int | None = None) -> None:
    """Raise unless x is a floating-point tensor whose last axis has `last_dim` entries."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, but a {type(x).__name__} came.")
    if not x.is_floating_point():
        raise TypeError(f"{name} must hold floats, but {x.dtype} came; try {name}.float().")
    if last_dim is not None and (x.ndim < 1 or x.shape[-1] != last_dim):
        raise ValueError(f"{name} must have shape (..., {last_dim}), but {tuple(x.shape)} came.")


def require_finite_matrix(name: str, x: torch.Tensor, n_columns: int | None = None) -> None:
    """Raise unless x is a non-empty, finite float matrix (with `n_columns` columns)."""
    require_float_tensor(name, x)
    if x.ndim != 2 or (n_columns is not None and x.shape[1] != n_columns):
        wanted = "columns" if n_columns is None else n_columns
        raise ValueError(f"{name} must have shape (rows, {wanted}), but {tuple(x.shape)} came.")
    if x.numel() == 0:
        raise ValueError(f"{name} is empty: its shape is {tuple(x.shape)}.")
    if not torch.isfinite(x).all():
        raise ValueError(f"{name} holds NaN or infinite values; it must be finite everywhere.")


def require_same_shape(**tensors: torch.Tensor) -> None:
    """Raise unless all named tensors have one shape (so that nothing broadcasts by accident)."""
    if len({x.shape for x in tensors.values()}) > 1:
        came = ", ".join(f"{name} {tuple(x.shape)}" for name, x in tensors.items())
        raise ValueError(f"{' and '.join(tensors)} must have the same shape, but came as {came}.")

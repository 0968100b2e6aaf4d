"""At the doors: is what came usable? And training that no outside setting of torch disturbs."""

from collections.abc import Callable

import numpy as np
import torch


def finite(name: str, x, n_columns: int | None = None) -> torch.Tensor:
    """x as a detached tensor of floats; raise in one sentence unless it is finite, not empty,
    and, where n_columns is given, a matrix of so many columns (0: of any number)."""
    if isinstance(x, np.ndarray):
        x = torch.from_numpy(np.require(x, requirements="CW"))  # views, read-only arrays
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a tensor or an array, but a {type(x).__name__} came.")
    if not x.is_floating_point():
        raise TypeError(f"{name} must hold floats, but {x.dtype} came; try {name}.float().")
    if x.numel() == 0:
        raise ValueError(f"{name} is empty: its shape is {tuple(x.shape)}.")
    if n_columns is not None and (x.ndim != 2 or x.shape[1] != (n_columns or x.shape[1])):
        wanted = n_columns or "columns"
        raise ValueError(f"{name} must have shape (rows, {wanted}), but {tuple(x.shape)} came.")
    x = x.detach()
    if not torch.isfinite(x).all():
        raise ValueError(f"{name} holds NaN or infinite values; it must be finite everywhere.")
    return x if x.dtype in (torch.float32, torch.float64) else x.float()  # half: NumPy has no word


def with_gradients(train: Callable) -> Callable:
    """Run a training loop with gradients on and in full precision, whatever is set around it.

    Under torch.no_grad() it would stop, under torch.autocast it would go wrong in silence.
    """
    for device in ("cpu", "cuda"):
        train = torch.autocast(device, enabled=False)(train)
    return torch.inference_mode(False)(torch.enable_grad()(train))

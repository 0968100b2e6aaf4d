"""Every check lets good values through and says in a sentence what is wrong with the others."""

import pytest
import torch

from sae_lib import validation

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("check", "arguments"),
    [
        ("require_positive_int", {"n": 1, "d": 10**9}),
        ("require_non_negative", {"a": 0, "b": 0.0, "c": 1e300}),
        ("require_float_tensor", {"name": "x", "x": torch.ones(5), "last_dim": 5}),
        ("require_float_tensor", {"name": "x", "x": torch.ones(2, 0, 5), "last_dim": 5}),
        ("require_float_tensor", {"name": "x", "x": torch.tensor(NAN).bfloat16()}),
        ("require_finite_matrix", {"name": "x", "x": torch.ones(1, 3), "n_columns": 3}),
        ("require_finite_matrix", {"name": "x", "x": torch.zeros(4, 3).double()}),
        ("require_same_shape", {"a": torch.ones(2, 3), "b": torch.zeros(2, 3).int()}),
        ("require_same_shape", {}),
    ],
)
def test_good_values_pass_in_silence(check, arguments):
    assert getattr(validation, check)(**arguments) is None


@pytest.mark.parametrize(
    ("check", "arguments", "error", "sentence"),
    [
        ("require_positive_int", {"a": 1, "n": 0}, ValueError, "n must be at least 1, but 0 came."),
        (
            "require_positive_int",
            {"n": True},
            TypeError,
            "n must be an int, but a bool came: True.",
        ),
        ("require_positive_int", {"n": 2.0}, TypeError, "n must be an int, but a float came: 2.0."),
        ("require_positive_int", {"n": "2"}, TypeError, "n must be an int, but a str came: '2'."),
        (
            "require_non_negative",
            {"a": 1, "λ": -1e-9},
            ValueError,
            "λ must be finite and not negative, but -1e-09 came.",
        ),
        (
            "require_non_negative",
            {"λ": NAN},
            ValueError,
            "λ must be finite and not negative, but nan came.",
        ),
        (
            "require_non_negative",
            {"λ": INF},
            ValueError,
            "λ must be finite and not negative, but inf came.",
        ),
        (
            "require_non_negative",
            {"λ": False},
            TypeError,
            "λ must be a number, but a bool came.",
        ),
        ("require_non_negative", {"λ": "1"}, TypeError, "λ must be a number, but a str came."),
        (
            "require_float_tensor",
            {"name": "x", "x": [1.0]},
            TypeError,
            "x must be a torch.Tensor, but a list came.",
        ),
        (
            "require_float_tensor",
            {"name": "x", "x": torch.ones(2, dtype=torch.int64)},
            TypeError,
            "x must hold floats, but torch.int64 came; try x.float().",
        ),
        (
            "require_float_tensor",
            {"name": "x", "x": torch.ones(5, 4), "last_dim": 5},
            ValueError,
            "x must have shape (..., 5), but (5, 4) came.",
        ),
        (
            "require_float_tensor",
            {"name": "x", "x": torch.tensor(1.0), "last_dim": 1},
            ValueError,
            "x must have shape (..., 1), but () came.",
        ),
        (
            "require_finite_matrix",
            {"name": "x", "x": torch.ones(2).bool()},
            TypeError,
            "x must hold floats, but torch.bool came; try x.float().",
        ),
        (
            "require_finite_matrix",
            {"name": "x", "x": torch.ones(5)},
            ValueError,
            "x must have shape (rows, columns), but (5,) came.",
        ),
        (
            "require_finite_matrix",
            {"name": "x", "x": torch.ones(2, 4), "n_columns": 5},
            ValueError,
            "x must have shape (rows, 5), but (2, 4) came.",
        ),
        (
            "require_finite_matrix",
            {"name": "x", "x": torch.ones(0, 5), "n_columns": 5},
            ValueError,
            "x is empty: its shape is (0, 5).",
        ),
        (
            "require_finite_matrix",
            {"name": "x", "x": torch.tensor([[1.0, -INF]])},
            ValueError,
            "x holds NaN or infinite values; it must be finite everywhere.",
        ),
        (
            "require_finite_matrix",
            {"name": "x", "x": torch.tensor([[1.0, NAN]])},
            ValueError,
            "x holds NaN or infinite values; it must be finite everywhere.",
        ),
        (
            "require_same_shape",
            {"x": torch.ones(2, 3), "y": torch.ones(2, 1)},
            ValueError,
            "x and y must have the same shape, but came as x (2, 3), y (2, 1).",
        ),
    ],
)
def test_bad_values_are_named_in_one_sentence(check, arguments, error, sentence):
    with pytest.raises(error) as raised:
        getattr(validation, check)(**arguments)
    assert str(raised.value) == sentence

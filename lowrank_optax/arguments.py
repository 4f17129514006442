"""Checks that several constructors share."""

from typing import Any

import jax


def require_static(name: str, value: Any) -> None:
    """Raise if an argument that fixes shapes or program structure came as a JAX array.

    Raises:
      TypeError: naming the argument and how `optax.inject_hyperparams` can leave it alone.
    """
    if isinstance(value, jax.Array):
        raise TypeError(
            f"{name} must be a Python value because it fixes the compiled program, but it is a "
            f"JAX array; with optax.inject_hyperparams pass static_args=('{name}', ...)."
        )


def check_fraction(name: str, value: Any) -> None:
    """Raise unless a Python number lies in [0, 1]; arrays, whose value is unknown, pass.

    Raises:
      ValueError: naming the argument and the range.
    """
    if isinstance(value, int | float) and not 0 <= value <= 1:
        raise ValueError(f"{name}={value} must lie in [0, 1].")

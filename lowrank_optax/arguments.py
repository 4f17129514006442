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

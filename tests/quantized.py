"""What block-wise quantisation makes of an array."""

from typing import Any

import jax
from jaxtyping import DTypeLike

from lowrank_optax.linalg import dequantize, quantize


def round_trip(
    x: jax.Array, *, dtype: DTypeLike | None = None, axis: int = -1, **options: Any
) -> jax.Array:
    """What is read back of x; the other options are those of `quantize`."""
    stored = quantize(x, axis=axis, **options)
    return dequantize(stored, size=x.shape[axis], axis=axis, dtype=dtype)

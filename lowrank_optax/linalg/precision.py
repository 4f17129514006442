"""The least precision of what is summed over steps or iterated."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Inexact, Shaped


def at_least_float32(x: Shaped[Array, "*shape"]) -> Inexact[Array, "*shape"]:
    """x in float32, or as it is where its type is wider."""
    return x.astype(wide_dtype(x.dtype))


def wide_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The type that `at_least_float32` turns a type into."""
    return jnp.promote_types(dtype, jnp.float32)


def exact_like(gradient: Any, parameter: Any) -> Any:
    """A gradient in float64 where its parameter, and with that its state, is."""
    is_double = jnp.result_type(parameter) == jnp.float64
    return jnp.asarray(gradient, jnp.float64) if is_double else gradient


def step_operands(dtype: DTypeLike) -> jnp.dtype:
    """The type in which the factors of a step or of a transform of a type are multiplied.

    bfloat16 has float32's range. float16 ends at 65504, where a step may be before any learning
    rate, and a sum over many rows of a gradient.
    """
    return jnp.dtype(jnp.float32 if dtype == jnp.float16 else dtype)

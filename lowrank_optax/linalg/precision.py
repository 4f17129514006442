"""The least precision of what is summed over steps or iterated."""

import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Inexact, Shaped


def at_least_float32(x: Shaped[Array, "*shape"]) -> Inexact[Array, "*shape"]:
    """x in float32, or as it is where its type is wider."""
    return x.astype(wide_dtype(x.dtype))


def wide_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The type that `at_least_float32` turns a type into."""
    return jnp.promote_types(dtype, jnp.float32)


def step_operands(dtype: DTypeLike) -> jnp.dtype:
    """The type in which the factors of a step of a type are multiplied, before any learning rate.

    bfloat16 has float32's range. float16 ends at 65504, where a step may be before it is scaled.
    """
    return jnp.dtype(jnp.float32 if dtype == jnp.float16 else dtype)

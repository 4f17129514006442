"""The least precision of what is summed over steps or iterated."""

import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Inexact, Shaped


def at_least_float32(x: Shaped[Array, "*shape"]) -> Inexact[Array, "*shape"]:
    """Returns x in float32, or as it is where its type is wider.

    Example:
      >>> import jax.numpy as jnp
      >>> at_least_float32(jnp.ones(2, jnp.bfloat16)).dtype.name
      'float32'
    """
    return x.astype(wide_dtype(x.dtype))


def wide_dtype(dtype: DTypeLike) -> jnp.dtype:
    """Returns the type that `at_least_float32` turns a type into.

    Example:
      >>> wide_dtype("float16").name, wide_dtype("float64").name
      ('float32', 'float64')
    """
    return jnp.promote_types(dtype, jnp.float32)

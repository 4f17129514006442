"""Products of small matrices with the rows of large ones, in the precision that is wanted."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, DTypeLike, Float


def widened(dtype: DTypeLike) -> Any:
    """The dtype that sums are formed in: the dtype itself, but at least float32."""
    return jnp.promote_types(dtype, jnp.float32)


def multiply_rows(
    W: Float[Array, "*fewer p q"], x: Float[Array, "*batch q m"], precision: Any = None
) -> Float[Array, "*batch p m"]:
    """W x, added up in at least float32, of matrices of one dtype.

    Args:
      W: one matrix, or a batch of them that fits x's last batch axes.
      x: matrices.
      precision: of the product, as `jax.lax.dot_general` takes it; None for the highest, and for
        half precision, whose products are exact in float32, the default.

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.linalg.products import multiply_rows
      >>> multiply_rows(jnp.eye(2, dtype=jnp.bfloat16), jnp.ones((3, 2, 1), jnp.bfloat16)).dtype
      dtype('float32')
    """
    if precision is None and jnp.finfo(x.dtype).bits >= 32:
        precision = lax.Precision.HIGHEST
    if W.shape[-2] <= x.shape[-1]:
        # Written out for every matrix of a batch: the product of one matrix with a batch comes out
        # with its axes in another order, and a transpose of the result costs more than a small W.
        W = jnp.broadcast_to(W, (*x.shape[: x.ndim - W.ndim], *W.shape))
    return jnp.matmul(W, x, precision=precision, preferred_element_type=widened(x.dtype))

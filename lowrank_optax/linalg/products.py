"""Matrix products in the precision that the operands are worth."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lowrank_optax.linalg.precision import wide_dtype


def product(a: Float[Array, "*batch m k"], b: Float[Array, "*batch k n"]) -> Array:
    """a b, accumulated and returned in at least float32.

    Half-precision operands stay what they are, for matrix units multiply them as such; float32
    ones are not rounded on the way (no TF32, no bfloat16 passes).

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.linalg.products import product
      >>> product(jnp.ones((2, 3), jnp.bfloat16), jnp.ones((3, 1), jnp.bfloat16)).dtype.name
      'float32'
    """
    wide = wide_dtype(jnp.promote_types(a.dtype, b.dtype))
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST, preferred_element_type=wide)


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
        precision = jax.lax.Precision.HIGHEST
    if W.shape[-2] <= x.shape[-1]:
        # Written out for every matrix of a batch: the product of one matrix with a batch comes out
        # with its axes in another order, and a transpose of the result costs more than a small W.
        W = jnp.broadcast_to(W, (*x.shape[: x.ndim - W.ndim], *W.shape))
    return jnp.matmul(W, x, precision=precision, preferred_element_type=wide_dtype(x.dtype))

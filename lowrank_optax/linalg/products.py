"""Matrix products in the precision that the operands are worth."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lowrank_optax.linalg.precision import wide_dtype


def product(
    a: Float[Array, "... m k"], b: Float[Array, "... k n"], precision: Any = None
) -> Float[Array, "... m n"]:
    """a b, accumulated and returned in at least float32.

    Half-precision operands stay what they are, for matrix units multiply them as such, exactly in
    float32; float32 ones are not rounded on the way (no TF32, no bfloat16 passes), unless another
    precision is asked for, as `jax.lax.dot_general` takes it.
    """
    dtype = jnp.promote_types(a.dtype, b.dtype)
    wide = wide_dtype(dtype)
    if precision is None and dtype == wide:
        precision = jax.lax.Precision.HIGHEST
    multiply = lambda a, b: jnp.matmul(a, b, precision=precision, preferred_element_type=wide)
    if dtype == wide:
        return multiply(a, b)
    # XLA's CPU backend refuses some products of bfloat16 with a float32 result (JAX 0.10), and
    # widens the operands of the others.
    widened = lambda a, b: multiply(a.astype(wide), b.astype(wide))
    return jax.lax.platform_dependent(a, b, cpu=widened, default=multiply)


def multiply_rows(
    W: Float[Array, "*fewer p q"], x: Float[Array, "*batch q m"], precision: Any = None
) -> Float[Array, "*batch p m"]:
    """The product W x, where W is one matrix, or a batch that fits x's last batch axes."""
    if W.shape[-2] <= x.shape[-1]:
        # Written out for every matrix of a batch: the product of one matrix with a batch comes out
        # with its axes in another order, and a transpose of the result costs more than a small W.
        W = jnp.broadcast_to(W, (*x.shape[: x.ndim - W.ndim], *W.shape))
    return product(W, x, precision)

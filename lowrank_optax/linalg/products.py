"""Matrix products in the precision that the operands are worth."""

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

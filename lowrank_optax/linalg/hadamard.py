"""The orthonormal Walsh–Hadamard transform in Sylvester's order, for powers of two."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int

from lowrank_optax.linalg.precision import at_least_float32
from lowrank_optax.linalg.products import multiply_rows


def is_power_of_two(n: int) -> bool:
    """Whether n is 1, 2, 4, 8, …"""
    return n > 0 and n & (n - 1) == 0


@jax.jit
def orthogonal_hadamard(x: Float[Array, "*batch n m"]) -> Float[Array, "*batch n m"]:
    """The orthonormal Walsh–Hadamard transform of the second-to-last axis, its own inverse.

    ``X_k = n^(-1/2) Σ_j (−1)^popcount(j & k) x_j``. With n = n1·n2 the matrix is a Kronecker
    product, so two products with matrices of about √n do: 4 passes over the array. Half precision
    is computed in float32.
    """
    *batch, n, m = x.shape
    _check_length(n)
    n1 = 1 << n.bit_length() // 2
    n2 = n // n1
    y = at_least_float32(x).reshape(*batch, n1, n2 * m)
    y = multiply_rows(_signs(n1, 1.0, y.dtype), y).reshape(*batch, n1, n2, m)
    y = multiply_rows(_signs(n2, math.sqrt(1 / n), y.dtype), y)
    return y.reshape(x.shape).astype(x.dtype)


def _signs(n: int, scale: float, dtype: DTypeLike) -> Float[Array, "{n} {n}"]:
    """The Walsh–Hadamard matrix, ± scale."""
    signs = np.ones((1, 1))
    while len(signs) < n:
        signs = np.block([[signs, signs], [signs, -signs]])
    return jnp.asarray(signs * scale, dtype)


def hadamard_columns(
    n: int, indices: Int[Array, "*batch r"], dtype: DTypeLike = jnp.float32
) -> Float[Array, "*batch {n} r"]:
    """The chosen columns of the orthonormal basis: ``n^(-1/2) (−1)^popcount(j & k)`` at j of k."""
    _check_length(n)
    rows = jnp.arange(n, dtype=jnp.int32)[:, None]
    common = jax.lax.population_count(rows & indices.astype(jnp.int32)[..., None, :])
    scale = jnp.asarray(math.sqrt(1 / n), dtype)
    return jnp.where(common % 2 == 0, scale, -scale)


def _check_length(n: int) -> None:
    if not is_power_of_two(n):
        raise ValueError(
            f"the Walsh–Hadamard transform needs a length that is a power of two, not n = {n}: "
            "use the DCT, which takes any n"
        )

"""Random matrices for tests, from numpy's generator, so that every JAX draws the same."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike


def draw(shape: tuple[int, ...], seed: int = 0, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Independent N(0, 1) numbers."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def orthonormal(shape: tuple[int, int], seed: int = 0, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Orthonormal columns that span a random subspace."""
    return jnp.asarray(np.linalg.qr(np.random.default_rng(seed).normal(size=shape))[0], dtype)


def decaying(
    shape: tuple[int, ...], seed: int = 0, factor: float = 0.7
) -> tuple[jax.Array, jax.Array]:
    """Matrices (…, n, m) of singular values 1, factor, factor², …; their left singular vectors."""
    rng = np.random.default_rng(seed)
    *batch, n, m = shape
    rank = min(n, m)
    U, V = (np.linalg.qr(rng.normal(size=(*batch, size, rank)))[0] for size in (n, m))
    A = U * factor ** np.arange(rank) @ V.swapaxes(-1, -2)
    return jnp.asarray(A, jnp.float32), jnp.asarray(U, jnp.float32)

"""Right singular vectors: exactly, from the Gram matrix, or by random sketching."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lowrank_optax.linalg.arguments import require_key
from lowrank_optax.linalg.devices import matrix_by_matrix, on_several_devices
from lowrank_optax.linalg.orthogonalize import HIGHEST, orthonormal_columns

METHODS = ("auto", "exact", "gram", "randomized")
# Of "randomized".
OVERSAMPLING = 8
POWER_ITERATIONS = 2
Vectors = tuple[Float[Array, "*batch n k"], Float[Array, "*batch k"]]


def right_singular_vectors(
    A: Float[Array, "*batch m n"], count: int, method: str = "auto", key: PRNGKeyArray | None = None
) -> Vectors:
    """The k = `count` leading right singular vectors, in columns, and singular values, descending.

    By "exact", the SVD; "gram", the eigenvectors of the n × n Gram matrix AᵀA, which costs one
    product and an n × n eigenproblem but resolves only singular values above √ε of the largest;
    "randomized" (arXiv 0909.4061, algorithm 4.4), a subspace iteration on a few more vectors
    than count, drawn by the key; or "auto": "exact" on one CPU. On accelerators, whose SVD is
    slow, "randomized" if there is a key and count is below a quarter of A's smaller side, else
    "gram"; "gram" too where A may be spread over several devices, which with rows apart adds up n²
    numbers where an SVD would gather A. All are NaN for a matrix that is not finite.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; use one of {METHODS}.")
    # LAPACK's SVD never returns for some matrices with an infinite entry (JAX 0.10 on CPUs).
    finite = jnp.all(jnp.isfinite(A), axis=(-2, -1), keepdims=True)
    A = jnp.where(finite, A, jnp.nan)
    ways = {
        "exact": functools.partial(_exact, count=count),
        "gram": functools.partial(_gram, count=count),
        "randomized": functools.partial(_randomized, count=count, key=key),
    }
    if method != "auto":
        return ways[method](A)
    if on_several_devices(A):
        return ways["gram"](A)
    narrow = 4 * (count + OVERSAMPLING) <= min(A.shape[-2:])
    on_accelerators = ways["randomized" if key is not None and narrow else "gram"]
    return jax.lax.platform_dependent(A, cpu=ways["exact"], default=on_accelerators)


def _exact(A: Float[Array, "*batch m n"], count: int) -> Vectors:
    whole = functools.partial(jnp.linalg.svd, full_matrices=count > min(A.shape[-2:]))
    _, s, Vt = matrix_by_matrix(whole, A)
    missing = max(0, count - s.shape[-1])
    s = jnp.pad(s, [(0, 0)] * (s.ndim - 1) + [(0, missing)])
    return Vt.mT[..., :count], s[..., :count]


def _gram(A: Float[Array, "*batch m n"], count: int) -> Vectors:
    # Scaled, so that the squares of tiny gradients do not underflow.
    largest = jnp.max(jnp.abs(A), axis=(-2, -1), keepdims=True)
    scaled = A / jnp.where(largest > 0, largest, 1)
    squares = jnp.matmul(scaled.mT, scaled, precision=HIGHEST)
    energies, V = matrix_by_matrix(jnp.linalg.eigh, squares)
    s = jnp.sqrt(jnp.maximum(energies[..., ::-1], 0)) * largest[..., 0]
    return V[..., ::-1][..., :count], s[..., :count]


def _randomized(A: Float[Array, "*batch m n"], count: int, key: PRNGKeyArray | None) -> Vectors:
    width = min(*A.shape[-2:], count + OVERSAMPLING)
    if count > width:
        return _exact(A, count)
    key = require_key(key, "method='randomized'")
    sketch = jax.random.normal(key, (*A.shape[:-1], width), A.dtype)
    Y = jnp.matmul(A.mT, sketch, precision=HIGHEST)
    for _ in range(POWER_ITERATIONS):
        Y = jnp.matmul(A, orthonormal_columns(Y), precision=HIGHEST)
        Y = jnp.matmul(A.mT, orthonormal_columns(Y), precision=HIGHEST)
    Q = orthonormal_columns(Y)
    V, s = _exact(jnp.matmul(A, Q, precision=HIGHEST), count)
    return jnp.matmul(Q, V, precision=HIGHEST), s

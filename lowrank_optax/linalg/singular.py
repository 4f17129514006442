"""Right singular vectors: exactly, from the Gram matrix, or by random sketching."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lowrank_optax.linalg.devices import on_several_devices
from lowrank_optax.linalg.keys import require_key
from lowrank_optax.linalg.lapack import matrix_by_matrix
from lowrank_optax.linalg.orthogonalize import HIGHEST, orthonormal_columns

METHODS = ("auto", "exact", "gram", "randomized")


def right_singular_vectors(
    A: Float[Array, "*batch m n"],
    count: int,
    method: str = "auto",
    key: PRNGKeyArray | None = None,
    *,
    oversampling: int = 8,
    power_iterations: int = 2,
) -> tuple[Float[Array, "*batch n k"], Float[Array, "*batch k"]]:
    """The leading right singular vectors and singular values of A.

    Args:
      A: matrices; fastest for m ≥ n.
      count: k, how many, at most n.
      method: "exact" for the SVD; "gram" for the eigenvectors of the n × n Gram matrix AᵀA, which
        costs one product and an n × n eigenproblem but resolves only singular values above
        √ε of the largest; "randomized" for a subspace iteration on count + oversampling vectors;
        "auto" for "gram" where A may be spread over several devices, which with rows apart adds up
        n² numbers where an SVD would gather A, and "exact" elsewhere.
      key: for "randomized".
      oversampling, power_iterations: of "randomized".

    Returns:
      Vectors in columns, (..., n, k), and values in descending order, (..., k); all
      NaN for a matrix that is not finite.

    Raises:
      ValueError: if the method is unknown, or draws at random without a key.

    Reference:
      arXiv 0909.4061, algorithm 4.4, for "randomized".

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.linalg.singular import right_singular_vectors
      >>> V, s = right_singular_vectors(jnp.diag(jnp.array([1.0, 3.0, 2.0])), 2)
      >>> [round(value, 4) for value in s.tolist()]
      [3.0, 2.0]
    """
    m, n = A.shape[-2:]
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; use one of {METHODS}.")
    if method == "auto":
        method = "gram" if on_several_devices(A) else "exact"
    # LAPACK's SVD never returns for some matrices with an infinite entry (JAX 0.10 on CPUs).
    finite = jnp.all(jnp.isfinite(A), axis=(-2, -1), keepdims=True)
    A = jnp.where(finite, A, jnp.nan)
    if method == "exact":
        whole = functools.partial(jnp.linalg.svd, full_matrices=count > min(m, n))
        _, s, Vt = matrix_by_matrix(whole, A)
        missing = max(0, count - s.shape[-1])
        s = jnp.pad(s, [(0, 0)] * (s.ndim - 1) + [(0, missing)])
        return Vt.mT[..., :count], s[..., :count]
    if method == "gram":
        # Scaled, so that the squares of tiny gradients do not underflow.
        largest = jnp.max(jnp.abs(A), axis=(-2, -1), keepdims=True)
        scaled = A / jnp.where(largest > 0, largest, 1)
        squares = jnp.matmul(scaled.mT, scaled, precision=HIGHEST)
        energies, V = matrix_by_matrix(jnp.linalg.eigh, squares)
        s = jnp.sqrt(jnp.maximum(energies[..., ::-1], 0)) * largest[..., 0]
        return V[..., ::-1][..., :count], s[..., :count]
    width = min(n, m, count + oversampling)
    if count > width:
        return right_singular_vectors(A, count, "exact")
    key = require_key(key, "method='randomized'")
    sketch = jax.random.normal(key, (*A.shape[:-1], width), A.dtype)
    Y = jnp.matmul(A.mT, sketch, precision=HIGHEST)
    for _ in range(power_iterations):
        Y = jnp.matmul(A, orthonormal_columns(Y), precision=HIGHEST)
        Y = jnp.matmul(A.mT, orthonormal_columns(Y), precision=HIGHEST)
    Q = orthonormal_columns(Y)
    V, s = right_singular_vectors(jnp.matmul(A, Q, precision=HIGHEST), count, "exact")
    return jnp.matmul(Q, V, precision=HIGHEST), s

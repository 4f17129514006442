"""Orthonormal bases of column spaces, and the sign convention of learned basis vectors."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lowrank_optax.linalg.devices import matrix_by_matrix

METHODS = ("auto", "qr", "cholesky_qr")
HIGHEST = jax.lax.Precision.HIGHEST


def orthonormal_columns(
    x: Float[Array, "*batch m r"], method: str = "auto"
) -> Float[Array, "*batch m r"]:
    """An orthonormal basis of the span of x's columns, m ≥ r: the Q of x = Q R.

    By "qr" (Householder; always orthonormal), or "cholesky_qr": two rounds of x (chol(xᵀx))⁻ᵀ,
    which with rows sharded moves r² numbers instead of the matrix; not finite for a rank-deficient
    x, so its caller must check. "auto" is "qr" on CPUs, and elsewhere "cholesky_qr", all products,
    with "qr" for what that cannot make orthonormal.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; use one of {METHODS}.")
    if method == "qr":
        return _qr(x)
    if method == "cholesky_qr":
        # Once loses half the digits on an ill-conditioned x; the second round restores them.
        return _cholesky_qr(_cholesky_qr(x)[0])[0]
    return jax.lax.platform_dependent(x, cpu=_qr, default=checked_cholesky_qr)


def checked_cholesky_qr(x: Float[Array, "*batch m r"]) -> Float[Array, "*batch m r"]:
    """Cholesky QR, and Householder's for the matrices of a batch where it failed.

    The second round's Gram matrix tells how orthonormal the first one's result is: within 1/2 of
    the identity its factor is exact to rounding, and so is the second round.
    """
    once, _ = _cholesky_qr(x)
    twice, C = _cholesky_qr(once)
    error = jnp.sum(jnp.abs(C - jnp.eye(C.shape[-1], dtype=C.dtype)), axis=-1)
    succeeded = jnp.max(error, axis=-1, initial=0) <= 0.5  # not so for NaN
    keep = lambda: twice
    mend = lambda: jnp.where(succeeded[..., None, None], twice, _qr(x))
    return jax.lax.cond(jnp.all(succeeded), keep, mend)


def _qr(x: Float[Array, "*batch m r"]) -> Float[Array, "*batch m r"]:
    return matrix_by_matrix(lambda x: jnp.linalg.qr(x)[0], x)


def _cholesky_qr(
    x: Float[Array, "*batch m r"],
) -> tuple[Float[Array, "*batch m r"], Float[Array, "*batch r r"]]:
    """One round, and the Gram matrix of the columns in equal length that it starts from."""
    # Columns of equal length first: the condition number that remains is nearly the least.
    lengths = jnp.linalg.norm(x, axis=-2, keepdims=True)
    x = x / jnp.where(lengths > 0, lengths, 1)
    C = jnp.matmul(x.mT, x, precision=HIGHEST)
    inverse = matrix_by_matrix(_inverse_factor, C)
    return jnp.matmul(x, inverse.mT, precision=HIGHEST), C


def _inverse_factor(C: Float[Array, "*batch r r"]) -> Float[Array, "*batch r r"]:
    """L⁻¹ of C = L Lᵀ. The small inverse: solving for x would gather x where its rows are apart."""
    L = jnp.linalg.cholesky(C)
    # Of L's type, also where it is sharded under explicit mesh axes.
    identity = jnp.eye(L.shape[-1], dtype=L.dtype) + jnp.zeros_like(L)
    return jax.lax.linalg.triangular_solve(L, identity, left_side=True, lower=True)


def canonical_signs(P: Float[Array, "*batch n r"]) -> Float[Array, "*batch n r"]:
    """Flip columns so that each one's entry of largest magnitude is positive.

    Moments that outlive a refresh then mean the same on every backend.
    """
    largest = jnp.take_along_axis(P, jnp.argmax(jnp.abs(P), axis=-2)[..., None, :], axis=-2)
    return jnp.where(largest < 0, -P, P)


def keep_finite(
    new: Float[Array, "*batch n r"], old: Float[Array, "*batch n r"]
) -> Float[Array, "*batch n r"]:
    """`new`, or `old` for the matrices of a batch whose factorisation failed."""
    finite = jnp.all(jnp.isfinite(new), axis=(-2, -1), keepdims=True)
    return jnp.where(finite, new, old)

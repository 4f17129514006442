"""Dion's pair of factors: orthonormal on one side, warm-started on the other."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lowrank_optax.axes.projections.base import Moment
from lowrank_optax.axes.projections.learned import LearnedBasis
from lowrank_optax.core.matrices import MatrixSpec
from lowrank_optax.linalg.arguments import check_rank
from lowrank_optax.linalg.averages import mean_over
from lowrank_optax.linalg.orthogonalize import HIGHEST, METHODS, keep_finite, orthonormal_columns


class Factors(NamedTuple):
    """Factors of the current step: A ≈ P Rᵀ, and Q, which is R with columns of unit length.

    Where devices with different A synchronise, R is of the device's own A and Q of the mean.

    `start` is where the next step starts: Q, or the last start if A was zero.
    """

    P: Float[Array, "*batch m r"]
    R: Float[Array, "*batch n r"]
    Q: Float[Array, "*batch n r"]
    start: Float[Array, "*batch n r"]


@dataclasses.dataclass(frozen=True)
class Alternating(LearnedBasis):
    """P ← orth(A Q), R = Aᵀ P, Q ← R with unit columns; build with `projections.alternating`.

    Between steps Q alone is remembered. The coordinates in the subspace are P itself, so an inner
    optimizer that leaves them alone gives the step P Qᵀ.
    """

    rank: int | float
    iterations: int
    eps: Any
    orthogonalize: str
    sync_axis: str | None = None

    stochastic = True
    every_step_only = True

    def init(
        self, spec: MatrixSpec, dtype: Any, key: PRNGKeyArray | None
    ) -> Float[Array, "*batch n r"]:
        """A normal draw for Q."""
        assert key is not None
        shape = (*spec.batch, spec.n, spec.rank)
        return jax.random.normal(key, shape, jnp.promote_types(dtype, jnp.float32))

    def refresh(
        self,
        A: Float[Array, "*batch m n"],
        basis: Float[Array, "*batch n r"],
        rank: int,
        key: PRNGKeyArray | None,
        moment: Moment | None = None,
    ) -> Factors:
        """One or more alternating iterations from the last Q."""
        del rank, key, moment
        dot = lambda x, y: jnp.matmul(x, y, precision=HIGHEST)
        start = basis.astype(A.dtype)
        for _ in range(self.iterations):
            P = orthonormal_columns(mean_over(dot(A, start), self.sync_axis), self.orthogonalize)
            P = keep_finite(P, jnp.zeros_like(P))
            R = dot(A.mT, P)
            mean = mean_over(R, self.sync_axis)
            lengths = jnp.linalg.norm(mean, axis=-2, keepdims=True)
            Q = mean / (lengths + self.eps)
            start = jnp.where(jnp.any(lengths > 0, axis=-1, keepdims=True), Q, start)
        return Factors(P, R, Q, start)

    def matrix(self, basis: Factors | Array) -> Float[Array, "*batch n r"]:
        """Q."""
        return basis.start if isinstance(basis, Factors) else basis

    def project(self, A: Float[Array, "*batch m n"], basis: Factors) -> Float[Array, "*batch m r"]:
        """P, the orthonormal coordinates."""
        del A
        return basis.P

    def embed(
        self, u: Float[Array, "*batch m r"], basis: Factors, shape: tuple[int, ...]
    ) -> Float[Array, "*batch m n"]:
        """u Rᵀ: for u = P the part of A in the subspace, P Pᵀ A."""
        del shape
        return jnp.matmul(u, basis.R.mT, precision=HIGHEST)

    def lift(
        self, u: Float[Array, "*batch m r"], basis: Factors, shape: tuple[int, ...]
    ) -> Float[Array, "*batch m n"]:
        """u Qᵀ."""
        del shape
        return jnp.matmul(u, basis.Q.mT, precision=HIGHEST)

    def settle(
        self,
        basis: Factors,
        A: Float[Array, "*batch m n"],
        a: Float[Array, "*batch m r"],
        u: Float[Array, "*batch m r"],
        refreshed: Any,
    ) -> Float[Array, "*batch n r"]:
        """Q, from which the next step starts."""
        del A, a, u, refreshed
        return basis.start


def alternating(
    rank: int | float = 128,
    *,
    iterations: int = 1,
    eps: Any = 1e-8,
    orthogonalize: str = "qr",
    sync_axis: str | None = None,
) -> Alternating:
    """Dion's factors: a power iteration from the last Q, orthonormal on the longer side.

    It changes at every step, so it takes no other `update_interval`.

    Args:
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      iterations: power iterations per step.
      eps: added to the length of R's columns.
      orthogonalize: "qr", or "cholesky_qr" where rows are sharded.
      sync_axis: axis of `jax.shard_map` whose devices average A Q (m × r) and Aᵀ P (n × r); None
        for no averaging.

    Raises:
      TypeError, ValueError: if an argument is out of range.

    Reference:
      arXiv 2504.05295, algorithm 1.

    Example:
      >>> import lowrank_optax as lro
      >>> lro.projections.alternating(rank=4).orthogonalize
      'qr'
    """
    check_rank(rank)
    if iterations < 1:
        raise ValueError(f"power_iters={iterations} must be at least 1.")
    if orthogonalize not in METHODS:
        raise ValueError(f"orthogonalize={orthogonalize!r} is unknown; use one of {METHODS}.")
    return Alternating(rank, iterations, eps, orthogonalize, sync_axis)

"""Learned bases: the state holds a matrix P (..., n, r), and the domain is weight space."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lowrank_optax.axes.projections.base import Basis, Projection
from lowrank_optax.core.matrices import MatrixSpec
from lowrank_optax.linalg.orthogonalize import HIGHEST


class LearnedBasis(Projection):
    """The span of the columns of a matrix P, which subclasses choose in `refresh`."""

    def init(self, spec: MatrixSpec, dtype: Any, key: PRNGKeyArray | None) -> Basis:
        """The first r coordinates."""
        del key
        eye = jnp.eye(spec.n, spec.rank, dtype=jnp.promote_types(dtype, jnp.float32))
        return jnp.broadcast_to(eye, (*spec.batch, spec.n, spec.rank))

    def project(self, A: Float[Array, "*batch m n"], basis: Basis) -> Float[Array, "*batch m r"]:
        """A P."""
        return jnp.matmul(A, self.matrix(basis).astype(A.dtype), precision=HIGHEST)

    def embed(
        self, u: Float[Array, "*batch m r"], basis: Basis, shape: tuple[int, ...]
    ) -> Float[Array, "*batch m n"]:
        """u Pᵀ."""
        del shape
        return jnp.matmul(u, self.matrix(basis).mT.astype(u.dtype), precision=HIGHEST)

    def carry(
        self, x: Float[Array, "*batch m r"], previous: Basis, current: Basis
    ) -> Float[Array, "*batch m r"]:
        """x (Pᵀ_previous P_current), the r × r product first."""
        R = jnp.matmul(self.matrix(previous).mT, self.matrix(current), precision=HIGHEST)
        return jnp.matmul(x, R.astype(x.dtype), precision=HIGHEST)

    def carry_squared(
        self, x: Float[Array, "*batch m r"], previous: Basis, current: Basis
    ) -> Float[Array, "*batch m r"]:
        """x (R ∘ R) with R = Pᵀ_previous P_current."""
        R = jnp.matmul(self.matrix(previous).mT, self.matrix(current), precision=HIGHEST)
        return jnp.matmul(x, jnp.square(R).astype(x.dtype), precision=HIGHEST)

    def overlap(self, previous: Basis, current: Basis) -> Float[Array, "*batch"]:
        """‖Pᵀ_previous P_current‖² / r."""
        R = jnp.matmul(self.matrix(previous).mT, self.matrix(current), precision=HIGHEST)
        return jnp.sum(jnp.square(R), axis=(-2, -1)) / R.shape[-1]

    def matrix(self, basis: Basis) -> Float[Array, "*batch n r"]:
        """P, for subclasses that remember more than P."""
        return basis

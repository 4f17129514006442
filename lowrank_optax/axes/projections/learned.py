"""Learned bases: the state holds a matrix P (..., n, r), and the domain is weight space."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lowrank_optax.axes.projections.arrays import Columns, Coordinates, Matrix
from lowrank_optax.axes.projections.base import Basis, Projection, Shape, Subspace, Transition
from lowrank_optax.linalg.precision import wide_dtype
from lowrank_optax.linalg.products import product


class LearnedBasis(Projection):
    """The span of the columns of a matrix P, which subclasses choose in `refresh`."""

    def init(self, shape: Shape, rank: int, dtype: Any, key: PRNGKeyArray) -> Basis:
        """The first r coordinates."""
        del key
        eye = jnp.eye(shape[-2], rank, dtype=wide_dtype(dtype))
        return jnp.broadcast_to(eye, (*shape[:-1], rank))

    def subspace(self, basis: Basis, shape: Shape, dtype: Any = None) -> "Span":
        del shape
        return Span(self.matrix(basis), dtype)

    def matrix(self, basis: Basis) -> Columns:
        """P, for subclasses that remember more than P."""
        return basis


@dataclasses.dataclass(frozen=True)
class Span(Subspace):
    """The span of the columns of P."""

    P: Columns
    dtype: Any = None

    def project(self, A: Matrix) -> Coordinates:
        return product(self.P.mT.astype(A.dtype), A)

    def embed(self, u: Coordinates) -> Matrix:
        return product(self.P.astype(u.dtype), u)

    def lift(self, u: Coordinates) -> Matrix:
        dtype = self.dtype or u.dtype
        return product(self.P.astype(dtype), u.astype(dtype))

    def without(self, A: Matrix, x: Coordinates, previous: "Span", y: Coordinates) -> Matrix:
        """A − P x − P_previous y, by one product, for each makes a matrix of A's size."""
        P = jnp.concatenate([self.P, previous.P], axis=-1).astype(A.dtype)
        return A - product(P, jnp.concatenate([x, y], axis=-2))

    def since(self, previous: "Span") -> "Rotation":
        return Rotation(previous.P, self.P)


@dataclasses.dataclass(frozen=True)
class Rotation(Transition):
    """A change of coordinates by R = Pᵀ_previous P, r × r."""

    previous: Columns
    P: Columns

    @property
    def matrix(self) -> Float[Array, "*batch r r"]:
        """R, formed where it is used: inside a refresh' conditional, not at every step."""
        return product(self.previous.mT, self.P)

    def carry(self, x: Coordinates) -> Coordinates:
        return product(self.matrix.mT.astype(x.dtype), x).astype(x.dtype)

    def carry_squared(self, x: Coordinates) -> Coordinates:
        return product(jnp.square(self.matrix).mT.astype(x.dtype), x).astype(x.dtype)

    def overlap(self) -> Float[Array, "*batch"]:
        R = self.matrix
        return jnp.sum(jnp.square(R), axis=(-2, -1)) / R.shape[-1]

"""The contract of the projection axis: which r-dimensional subspace, and in which domain we work.

Every projection analyses a gradient into a *domain* in which the rest of the step happens. A fixed
orthogonal basis Q uses its coefficients S = G Q, so projecting is a gather of columns; a learned
basis P uses the weight domain itself. The transform is orthogonal, hence norms, sums and residuals
mean the same in both.
"""

import abc
from typing import Any

from jaxtyping import Array, Float

from lowrank_optax.matrices import MatrixSpec

Basis = Any
"""What a projection remembers: indices (..., r) of a fixed basis, or a matrix P (..., n, r)."""


class Projection(abc.ABC):
    """A subspace of the compressed axis. Hashable and stateless: what changes is the basis.

    All arrays are batched: G, S, A are (..., m, n), low-rank ones are (..., m, r).

    Attributes:
      rank: r as an int or a fraction of n.
      stochastic: whether `init` or `refresh` use their key.
    """

    rank: int | float
    stochastic: bool = False

    @abc.abstractmethod
    def init(self, spec: MatrixSpec, dtype: Any, key: Array | None) -> Basis:
        """The basis before the first refresh."""

    @abc.abstractmethod
    def analyze(self, G: Float[Array, "*batch m n"]) -> Float[Array, "*batch m n"]:
        """From weight space to the domain."""

    @abc.abstractmethod
    def synthesize(self, S: Float[Array, "*batch m n"]) -> Float[Array, "*batch m n"]:
        """From the domain back to weight space; inverse of `analyze`."""

    @abc.abstractmethod
    def refresh(
        self, A: Float[Array, "*batch m n"], basis: Basis, rank: int, key: Array | None
    ) -> Basis:
        """A new basis for A, which is in the domain."""

    @abc.abstractmethod
    def project(self, A: Float[Array, "*batch m n"], basis: Basis) -> Float[Array, "*batch m r"]:
        """a = A P, the coordinates in the subspace."""

    @abc.abstractmethod
    def lift(
        self, u: Float[Array, "*batch m r"], basis: Basis, n: int
    ) -> Float[Array, "*batch m n"]:
        """u Pᵀ in weight space."""

    @abc.abstractmethod
    def reweight(
        self,
        A: Float[Array, "*batch m n"],
        a: Float[Array, "*batch m r"],
        basis: Basis,
        inside: Any,
        outside: Any,
    ) -> Float[Array, "*batch m n"]:
        """inside · A P Pᵀ + outside · (A − A P Pᵀ), in the domain, given a = A P."""

    @abc.abstractmethod
    def carry(
        self, x: Float[Array, "*batch m r"], previous: Basis, current: Basis
    ) -> Float[Array, "*batch m r"]:
        """x Pᵀ_previous P_current: coordinates in the old subspace expressed in the new one."""

"""The contract of the projection axis: which r-dimensional subspace, and in which domain we work.

Every projection analyses a gradient into a *domain* in which the rest of the step happens. A fixed
orthogonal basis Q uses its coefficients S = G Q, so projecting is a gather of columns; a learned
basis P uses the weight domain itself. The transform is orthogonal, hence norms, sums and residuals
mean the same in both.
"""

import abc
import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lowrank_optax.core.matrices import MatrixSpec

Basis = Any
"""What a projection remembers: indices (..., r) of a fixed basis, or a matrix P (..., n, r)."""


@dataclasses.dataclass(frozen=True)
class Moment:
    """The inner optimizer's first moment, for projections that track it.

    Attributes:
      mu: uncorrected first moment in the coordinates of the previous basis, shape (..., m, r).
      count: int32 number of steps that it has averaged.
    """

    mu: Float[Array, "*batch m r"]
    count: Int[Array, ""]


class Projection(abc.ABC):
    """A subspace of the compressed axis. Hashable and stateless: what changes is the basis.

    All arrays are batched: G, S, A are (..., m, n), low-rank ones are (..., m, r).

    Attributes:
      rank: r as an int or a fraction of n.
      stochastic: whether `init` or `refresh` use their key.
      uses_moment: whether `refresh` reads the inner optimizer's first moment.
      every_step_only: whether the basis must be refreshed at every step.
      keeps_rows: whether row i of a = A P belongs to row i of A.
      mixes_columns: whether `analyze` needs whole rows, so that a split of the columns over devices
        has to become one of the rows.
    """

    rank: int | float
    stochastic: bool = False
    uses_moment: bool = False
    every_step_only: bool = False
    keeps_rows: bool = True
    mixes_columns: bool = False

    def low_rank_shape(self, spec: MatrixSpec) -> tuple[int, ...]:
        """Shape of a = A P for one leaf."""
        return (*spec.batch, spec.m, spec.rank)

    @abc.abstractmethod
    def init(self, spec: MatrixSpec, dtype: Any, key: PRNGKeyArray | None) -> Basis:
        """The basis before the first refresh."""

    def analyze(self, G: Float[Array, "*batch m n"]) -> Float[Array, "*batch m n"]:
        """From weight space to the domain."""
        return G

    def synthesize(self, S: Float[Array, "*batch m n"]) -> Float[Array, "*batch m n"]:
        """From the domain back to weight space; inverse of `analyze`."""
        return S

    @abc.abstractmethod
    def refresh(
        self,
        A: Float[Array, "*batch m n"],
        basis: Basis,
        rank: int,
        key: PRNGKeyArray | None,
        moment: Moment | None = None,
    ) -> Basis:
        """A new basis for A, which is in the domain."""

    @abc.abstractmethod
    def project(self, A: Float[Array, "*batch m n"], basis: Basis) -> Float[Array, "*batch p r"]:
        """a = A P, the coordinates in the subspace."""

    @abc.abstractmethod
    def embed(
        self, u: Float[Array, "*batch p r"], basis: Basis, shape: tuple[int, ...]
    ) -> Float[Array, "*batch m n"]:
        """u Pᵀ in the domain; `shape` is (m, n)."""

    def lift(
        self, u: Float[Array, "*batch p r"], basis: Basis, shape: tuple[int, ...]
    ) -> Float[Array, "*batch m n"]:
        """u Pᵀ in weight space; `shape` is (m, n)."""
        return self.synthesize(self.embed(u, basis, shape))

    def reweight(
        self,
        A: Float[Array, "*batch m n"],
        a: Float[Array, "*batch p r"],
        basis: Basis,
        inside: Any,
        outside: Any,
    ) -> Float[Array, "*batch m n"]:
        """inside · A P Pᵀ + outside · (A − A P Pᵀ), in the domain, given a = A P."""
        part = self.embed(a, basis, A.shape[-2:])
        outside = jnp.asarray(outside, A.dtype)
        return outside * A + (jnp.asarray(inside, A.dtype) - outside) * part

    @abc.abstractmethod
    def carry(
        self, x: Float[Array, "*batch p r"], previous: Basis, current: Basis
    ) -> Float[Array, "*batch p r"]:
        """x Pᵀ_previous P_current: coordinates in the old subspace expressed in the new one."""

    @abc.abstractmethod
    def carry_squared(
        self, x: Float[Array, "*batch p r"], previous: Basis, current: Basis
    ) -> Float[Array, "*batch p r"]:
        """x (R ∘ R) with R = Pᵀ_previous P_current: how variances of coordinates carry over."""

    @abc.abstractmethod
    def overlap(self, previous: Basis, current: Basis) -> Float[Array, "*batch"]:
        """‖Pᵀ_previous P_current‖² / r in [0, 1]: 1 for equal subspaces, 0 for orthogonal ones."""

    def settle(
        self,
        basis: Basis,
        A: Float[Array, "*batch m n"],
        a: Float[Array, "*batch p r"],
        u: Float[Array, "*batch p r"],
        refreshed: Any,
    ) -> Basis:
        """What to remember until the next step, once this one is known.

        Args:
          basis: the basis that this step used.
          A: what was projected, in the domain.
          a: its coordinates.
          u: the inner optimizer's direction.
          refreshed: whether this step chose the basis.
        """
        del A, a, u, refreshed
        return basis

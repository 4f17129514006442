"""A rank that changes over training, inside arrays of fixed shape."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lowrank_optax.axes.projections.base import Moment
from lowrank_optax.axes.projections.learned import LearnedBasis
from lowrank_optax.core.matrices import MatrixSpec


class ScheduledBasis(NamedTuple):
    """P with its columns beyond the current rank zeroed, and the number of refreshes so far."""

    P: Float[Array, "*batch n r"]
    refreshes: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class ScheduledRank(LearnedBasis):
    """The leading columns of another learned basis; build with `projections.scheduled_rank`."""

    projection: LearnedBasis
    rank_at: Callable[[Array], Array]

    @property
    def rank(self) -> int | float:  # type: ignore[override]
        """The largest rank."""
        return self.projection.rank

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether the other basis is random."""
        return self.projection.stochastic

    def init(self, spec: MatrixSpec, dtype: Any, key: PRNGKeyArray | None) -> ScheduledBasis:
        """The other one's."""
        return ScheduledBasis(self.projection.init(spec, dtype, key), jnp.zeros((), jnp.int32))

    def matrix(self, basis: ScheduledBasis) -> Float[Array, "*batch n r"]:
        """P."""
        return basis.P

    def refresh(
        self,
        A: Float[Array, "*batch m n"],
        basis: ScheduledBasis,
        rank: int,
        key: PRNGKeyArray | None,
        moment: Moment | None = None,
    ) -> ScheduledBasis:
        """The other one's leading columns, as many as the schedule says."""
        P = self.projection.refresh(A, basis.P, rank, key, moment)
        kept = jnp.arange(rank) < self.rank_at(basis.refreshes)
        return ScheduledBasis(P * kept.astype(P.dtype), basis.refreshes + 1)


def scheduled_rank(projection: LearnedBasis, rank_at: Callable[[Array], Array]) -> ScheduledRank:
    """Use fewer columns of a learned basis than it has, as many as a schedule says.

    Shapes are those of the largest rank, so the state does not shrink; what changes is the
    subspace. The columns of `projections.svd` are in order of their singular values, so the leading
    ones are the best.

    Args:
      projection: `projections.svd`, or another one whose basis is a plain matrix; its rank is the
        largest one.
      rank_at: function of the int32 number of refreshes so far to the rank.

    Raises:
      TypeError: if the projection has no such basis.

    Example:
      >>> import lowrank_optax as lro
      >>> grow = lambda refreshes: 8 * (1 + refreshes)
      >>> lro.projections.scheduled_rank(lro.projections.svd(32), grow).rank
      32
    """
    plain = isinstance(projection, LearnedBasis) and type(projection).matrix is LearnedBasis.matrix
    if not plain or projection.uses_moment:
        raise TypeError(
            f"scheduled_rank: {projection!r} does not remember a plain matrix P alone; use "
            "projections.svd, random, or power_iteration without rho."
        )
    return ScheduledRank(projection, rank_at)

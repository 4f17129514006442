"""A rank that changes over training, inside arrays of fixed shape."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.projections.base import Choice, Shape
from lowrank_optax.axes.projections.learned import LearnedBasis


class ScheduledBasis(NamedTuple):
    """P with its columns beyond the current rank zeroed, and the number of refreshes so far."""

    P: Float[Array, "*batch n r"]
    refreshes: Int[Array, ""]


@axis_value("projection")
class ScheduledRank(LearnedBasis):
    """The leading columns of another learned basis; build with `projections.scheduled_rank`."""

    projection: LearnedBasis
    rank_at: Callable[[Array], Array]

    @property
    def rank(self) -> int | float:  # type: ignore[override]
        """The largest rank."""
        return self.projection.rank

    @property
    def uses_moment(self) -> bool:
        """Whether the other one does."""
        return self.projection.uses_moment

    def init(self, shape: Shape, rank: int, dtype: Any, key: PRNGKeyArray) -> ScheduledBasis:
        """The other one's."""
        P = self.projection.init(shape, rank, dtype, key)
        return ScheduledBasis(P, jnp.zeros((), jnp.int32))

    def matrix(self, basis: ScheduledBasis) -> Float[Array, "*batch n r"]:
        """P."""
        return basis.P

    def refresh(self, choice: Choice) -> ScheduledBasis:
        """The other one's leading columns, as many as the schedule says."""
        refreshes = choice.basis.refreshes
        P = self.projection.refresh(dataclasses.replace(choice, basis=choice.basis.P))
        kept = jnp.arange(choice.rank) < self.rank_at(refreshes)
        return ScheduledBasis(P * kept.astype(P.dtype), optax.safe_increment(refreshes))


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
    if not isinstance(projection, LearnedBasis) or (
        type(projection).matrix is not LearnedBasis.matrix
    ):
        raise TypeError(
            f"scheduled_rank: {projection!r} does not remember a plain matrix P alone; use "
            "projections.svd, random, or power_iteration."
        )
    return ScheduledRank(projection, rank_at)

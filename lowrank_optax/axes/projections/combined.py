"""Learned bases made of other ones: two in turn, or the leading columns of one."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.projections.arrays import Columns
from lowrank_optax.axes.projections.base import Choice, Shape
from lowrank_optax.axes.projections.learned import LearnedBasis


@axis_value("first", "second", "step")
class Switch(LearnedBasis):
    """Two learned bases in turn; build with `projections.switch`."""

    rank: int | float
    first: LearnedBasis
    second: LearnedBasis
    step: Any

    @property
    def uses_moment(self) -> bool:
        return self.first.uses_moment or self.second.uses_moment

    @property
    def is_orthogonal(self) -> bool:
        return self.first.is_orthogonal and self.second.is_orthogonal

    def init(self, shape: Shape, rank: int, dtype: Any, key: PRNGKeyArray) -> Array:
        return self.first.init(shape, rank, dtype, key)

    def refresh(self, choice: Choice) -> Columns:
        first, second = self.first.refresh, self.second.refresh
        return jax.lax.cond(choice.count < self.step, lambda: first(choice), lambda: second(choice))

    def check(self, parts: Any) -> None:
        """Raise if another axis lacks what one of the two needs."""
        self.first.check(parts)
        self.second.check(parts)


def switch(first: LearnedBasis, second: LearnedBasis, step: Any) -> Switch:
    """`first` for refreshes before a step, then `second`.

    Args:
      first, second: learned bases of the same rank that remember a plain matrix P.
      step: the first step, counted from 0, of which a refresh is by `second`.

    Raises:
      TypeError: if one has no such basis, or changes it between refreshes.
      ValueError: if their ranks differ.

    Example:
      >>> import lowrank_optax as lro
      >>> lro.projections.switch(lro.projections.svd(4), lro.projections.random(4), 10).rank
      4
    """
    _require_plain("switch", first)
    _require_plain("switch", second)
    # 1 and 1.0 are equal, and one column and all of them.
    if repr(first.rank) != repr(second.rank):
        raise ValueError(
            f"switch: first has rank={first.rank} and second rank={second.rank}; give both the "
            "same rank."
        )
    return Switch(first.rank, first, second, step)


class ScheduledBasis(NamedTuple):
    """What a `ScheduledRank` remembers."""

    P: Columns  # columns beyond the current rank are zero
    refreshes: Int[Array, ""]  # how many there have been


@axis_value("projection")
class ScheduledRank(LearnedBasis):
    """The leading columns of another learned basis; build with `projections.scheduled_rank`."""

    rank: int | float
    projection: LearnedBasis
    rank_at: Callable[[Array], Array]

    @property
    def uses_moment(self) -> bool:
        return self.projection.uses_moment

    @property
    def is_orthogonal(self) -> bool:
        return self.projection.is_orthogonal

    def init(self, shape: Shape, rank: int, dtype: Any, key: PRNGKeyArray) -> ScheduledBasis:
        P = self.projection.init(shape, rank, dtype, key)
        return ScheduledBasis(P, jnp.zeros((), jnp.int32))

    def matrix(self, basis: ScheduledBasis) -> Columns:
        return basis.P

    def refresh(self, choice: Choice) -> ScheduledBasis:
        refreshes = choice.basis.refreshes
        P = self.projection.refresh(dataclasses.replace(choice, basis=choice.basis.P))
        kept = jnp.arange(choice.rank) < self.rank_at(refreshes)
        return ScheduledBasis(P * kept.astype(P.dtype), optax.safe_increment(refreshes))

    def check(self, parts: Any) -> None:
        """Raise if another axis lacks what the projection needs."""
        self.projection.check(parts)


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
      TypeError: if the projection has no such basis, or changes it between refreshes.

    Example:
      >>> import lowrank_optax as lro
      >>> grow = lambda refreshes: 8 * (1 + refreshes)
      >>> lro.projections.scheduled_rank(lro.projections.svd(32), grow).rank
      32
    """
    _require_plain("scheduled_rank", projection)
    return ScheduledRank(projection.rank, projection, rank_at)


def _require_plain(user: str, projection: Any) -> None:
    """Raise unless what a projection remembers is its matrix P, which it changes at refreshes."""
    if not isinstance(projection, LearnedBasis) or (
        type(projection).matrix is not LearnedBasis.matrix
    ):
        raise TypeError(
            f"{user}: {projection!r} does not remember a plain matrix P alone; use "
            "projections.svd, random, or power_iteration."
        )
    # Which of two made P is not known any more, and columns that a schedule leaves out are zero.
    if type(projection).settle is not LearnedBasis.settle:
        raise TypeError(
            f"{user}: {projection!r} learns from every step, but {user} changes a basis at "
            "refreshes only; use projections.svd, random, or power_iteration."
        )

"""One projection up to some step and another one from then on."""

from typing import Any

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.projections.base import Choice, Shape
from lowrank_optax.axes.projections.learned import LearnedBasis


@axis_value("first", "second", "step")
class Switch(LearnedBasis):
    """Two learned bases in turn; build with `projections.switch`."""

    first: LearnedBasis
    second: LearnedBasis
    step: Any

    @property
    def rank(self) -> int | float:  # type: ignore[override]
        """Rank of both."""
        return self.first.rank

    @property
    def uses_moment(self) -> bool:
        """Whether one of them does."""
        return self.first.uses_moment or self.second.uses_moment

    def init(self, shape: Shape, rank: int, dtype: Any, key: PRNGKeyArray) -> Array:
        """The first one's."""
        return self.first.init(shape, rank, dtype, key)

    def refresh(self, choice: Choice) -> Float[Array, "*batch n r"]:
        """By the projection whose turn it is."""
        first, second = self.first.refresh, self.second.refresh
        return jax.lax.cond(choice.count < self.step, lambda: first(choice), lambda: second(choice))


def switch(first: LearnedBasis, second: LearnedBasis, step: Any) -> Switch:
    """`first` for refreshes before a step, then `second`.

    Args:
      first, second: learned bases of the same rank that remember a plain matrix P.
      step: the first step, counted from 0, of which a refresh is by `second`.

    Example:
      >>> import lowrank_optax as lro
      >>> lro.projections.switch(lro.projections.svd(4), lro.projections.random(4), 10).rank
      4
    """
    return Switch(first, second, step)

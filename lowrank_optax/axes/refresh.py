"""The refresh axis: at which steps the subspace changes."""

import abc
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.projections.base import Transition

__all__ = [
    "Adaptive",
    "AdaptiveState",
    "Every",
    "EveryStep",
    "Once",
    "Refresh",
    "Staggered",
    "UpdateInterval",
    "When",
    "adaptive",
    "resolve",
]

Count: TypeAlias = Int[Array, ""]  # int32 number of steps taken
Due: TypeAlias = Bool[Array, ""] | bool  # True where it always is, and no predicate is compiled

UpdateInterval: TypeAlias = "int | Callable[[Array], Array] | Refresh"
"""What `update_interval=` takes: T, a function of the count, or a `Refresh`."""


class Refresh(abc.ABC):
    """Contract of the refresh axis. Stateless; the engine counts the steps."""

    # Whether every matrix follows a schedule of its own, and so has an inner optimizer of its own,
    # whose step counts are its own.
    by_matrix: bool = False

    def init(self) -> Any:
        """What is remembered for each matrix: by default nothing."""
        return ()

    @abc.abstractmethod
    def due(self, count: Count, state: Any, position: int, matrices: int) -> Due:
        """Whether this step chooses a subspace; true at the first step.

        `state` is what is remembered for this matrix, which has a position among all matrices.
        """

    def advance(self, state: Any, count: Count, due: Due, change: Transition) -> Any:
        """What to remember after a step, given the change of the subspace in it."""
        del count, due, change
        return state


@axis_value()
class EveryStep(Refresh):
    """At every step."""

    def due(self, count: Count, state: Any, position: int, matrices: int) -> bool:
        del count, state, position, matrices
        return True


@axis_value()
class Once(Refresh):
    """At the first step only."""

    def due(self, count: Count, state: Any, position: int, matrices: int) -> Array:
        del state, position, matrices
        return count == 0


@axis_value()
class When(Refresh):
    """Where a function of the count says so, and at the first step."""

    predicate: Callable[[Array], Array]

    def due(self, count: Count, state: Any, position: int, matrices: int) -> Array:
        del state, position, matrices
        return (count == 0) | jnp.asarray(self.predicate(count), bool)


@axis_value("interval", "offset")
class Every(Refresh):
    """Where (count − offset) % interval == 0, and at the first step."""

    interval: Any
    offset: Any = 0

    def due(self, count: Count, state: Any, position: int, matrices: int) -> Array:
        del state, position, matrices
        return (count == 0) | ((count - self.offset) % self.interval == 0)


@axis_value("interval")
class Staggered(Refresh):
    """Every interval, each matrix at an offset of its own, spread evenly."""

    interval: Any
    by_matrix = True

    def due(self, count: Count, state: Any, position: int, matrices: int) -> Array:
        offset = position * self.interval // matrices
        return Every(self.interval, offset).due(count, state, position, matrices)


class AdaptiveState(NamedTuple):
    """What an adaptive schedule remembers for a matrix."""

    interval: Int[Array, ""]  # current interval
    due_at: Int[Array, ""]  # count at which the subspace changes next; 0 at first


@axis_value()
class Adaptive(Refresh):
    """Doubles a matrix's interval while its subspace stays the same; see `adaptive`."""

    interval: int
    threshold: float
    longest: int
    by_matrix = True

    def init(self) -> AdaptiveState:
        return AdaptiveState(jnp.asarray(self.interval, jnp.int32), jnp.zeros((), jnp.int32))

    def due(self, count: Count, state: AdaptiveState, position: int, matrices: int) -> Array:
        del position, matrices
        return count >= state.due_at

    def advance(
        self, state: AdaptiveState, count: Count, due: Due, change: Transition
    ) -> AdaptiveState:
        # The first refresh has no old subspace.
        stable = (jnp.min(change.overlap()) > self.threshold) & (count > 0)
        longer = jnp.minimum(2 * state.interval, self.longest)
        interval = jnp.where(due & stable, longer, state.interval)
        return AdaptiveState(interval, jnp.where(due, count + interval, state.due_at))


def adaptive(interval: int = 200, *, threshold: float = 0.4, longest: int = 6400) -> Refresh:
    """Refresh rarely where the subspace is stable, as Q-GaLore does.

    A leaf whose new subspace overlaps the old one by more than `threshold` doubles its interval.
    Stacked matrices share a leaf's schedule, and the one that overlaps least decides.

    Args:
      interval: the interval at first.
      threshold: overlap ‖Pᵀ_old P_new‖² / r, in [0, 1], above which the interval doubles.
      longest: the longest interval.

    Raises:
      ValueError: if an argument is out of range.

    Reference:
      arXiv 2407.08296, section 3.2.

    Example:
      >>> import lowrank_optax as lro
      >>> lro.adaptive(50).interval
      50
    """
    if not 1 <= interval <= longest:
        raise ValueError(f"interval={interval} must be at least 1 and at most longest={longest}.")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} is an overlap and must lie in [0, 1].")
    return Adaptive(interval, threshold, longest)


def resolve(update_interval: Any, stagger: bool = False, offset: int = 0) -> Refresh:
    """The schedule of what `update_interval=`, also a traced number, and `stagger=` take."""
    if isinstance(update_interval, numbers.Integral) and not isinstance(update_interval, bool):
        update_interval = int(update_interval)
    is_number = isinstance(update_interval, int | jax.Array)
    below = lambda least: isinstance(update_interval, int) and update_interval < least
    if stagger:
        if not is_number or below(2):
            raise ValueError(
                f"stagger=True spreads refreshes over an interval, but update_interval="
                f"{update_interval!r} is no int above 1; give one, or leave stagger out."
            )
        return Staggered(update_interval)
    if isinstance(update_interval, Refresh):
        return update_interval
    if callable(update_interval):
        return When(update_interval)
    if isinstance(update_interval, bool) or not is_number:
        raise TypeError(
            f"update_interval={update_interval!r} must be an int, a function count -> bool, or a "
            "schedule such as lro.adaptive()."
        )
    if below(1):
        raise ValueError(f"update_interval={update_interval} must be at least 1.")
    return EveryStep() if below(2) else Every(update_interval, offset)

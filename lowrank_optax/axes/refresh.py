"""The refresh axis: at which steps the subspace changes."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

UpdateInterval: TypeAlias = "int | Callable[[Array], Array] | Refresh"
"""What `update_interval=` takes: T, a function of the count, or a `Refresh`."""


MOST_GROUPS = 64
"""Groups that a staggered schedule splits leaves into; each has step counts of its own."""


class Refresh(abc.ABC):
    """Contract of the refresh axis. Hashable and stateless.

    Attributes:
      every_step: the subspace changes at every step, so no predicate is compiled.
      grouped: leaves follow schedules of their own, in groups.
      groups: the number of groups; None for one per leaf.
      uses_overlap: `advance` reads the overlap of the new subspace with the old one.
    """

    every_step: bool = False
    grouped: bool = False
    groups: int | None = None
    uses_overlap: bool = False

    def init(self) -> Any:
        """State: by default the int32 number of steps taken."""
        return jnp.zeros((), jnp.int32)

    @abc.abstractmethod
    def due(self, state: Any) -> Bool[Array, ""]:
        """Whether this step chooses a subspace; true at the first step."""

    def advance(
        self, state: Any, refreshed: Bool[Array, ""] | bool, overlap: Float[Array, ""] | None
    ) -> Any:
        """The state after a step."""
        del refreshed, overlap
        return optax.safe_increment(state)

    def for_group(self, group: int, groups: int) -> "Refresh":
        """The schedule of one of the groups of leaves."""
        del group, groups
        return self


@dataclasses.dataclass(frozen=True)
class EveryStep(Refresh):
    """At every step; keeps no state."""

    every_step = True

    def init(self) -> Any:
        """Nothing."""
        return ()

    def due(self, state: Any) -> Bool[Array, ""]:
        """Always."""
        del state
        return jnp.asarray(True)

    def advance(
        self, state: Any, refreshed: Bool[Array, ""] | bool, overlap: Float[Array, ""] | None
    ) -> Any:
        """Nothing to count."""
        del refreshed, overlap
        return state


@dataclasses.dataclass(frozen=True)
class Once(Refresh):
    """At the first step only."""

    def due(self, state: Int[Array, ""]) -> Bool[Array, ""]:
        """At count 0."""
        return state == 0


@dataclasses.dataclass(frozen=True)
class When(Refresh):
    """Where a function of the count says so."""

    predicate: Callable[[Array], Array]

    def due(self, state: Int[Array, ""]) -> Bool[Array, ""]:
        """The predicate."""
        return jnp.asarray(self.predicate(state), bool)


@dataclasses.dataclass(frozen=True)
class Every(Refresh):
    """Where (count − offset) % interval == 0, and at the first step."""

    interval: Any
    offset: int = 0

    def due(self, state: Int[Array, ""]) -> Bool[Array, ""]:
        """Every `interval` steps."""
        return (state == 0) | ((state - self.offset) % self.interval == 0)


@dataclasses.dataclass(frozen=True)
class Staggered(Every):
    """Every interval, but spread over it: each group of leaves has its own offset."""

    grouped = True

    @property
    def groups(self) -> int:  # type: ignore[override]
        """One group per step of the interval, within reason."""
        return min(self.interval, MOST_GROUPS)

    def for_group(self, group: int, groups: int) -> Refresh:
        """Offsets spread evenly over the interval."""
        return Every(self.interval, group * self.interval // groups)


class AdaptiveState(NamedTuple):
    """State of an adaptive schedule."""

    steps: Int[Array, ""]  # steps taken
    interval: Int[Array, ""]  # current interval
    due_at: Int[Array, ""]  # count at which the subspace changes next


@dataclasses.dataclass(frozen=True)
class Adaptive(Refresh):
    """Doubles a matrix's interval while its subspace stays the same; see `adaptive`."""

    interval: int
    threshold: float
    longest: int

    grouped = True
    uses_overlap = True

    def init(self) -> AdaptiveState:
        """Due at once."""
        zero = jnp.zeros((), jnp.int32)
        return AdaptiveState(zero, jnp.asarray(self.interval, jnp.int32), zero)

    def due(self, state: AdaptiveState) -> Bool[Array, ""]:
        """Once the current interval has passed."""
        return state.steps >= state.due_at

    def advance(
        self,
        state: AdaptiveState,
        refreshed: Bool[Array, ""] | bool,
        overlap: Float[Array, ""] | None,
    ) -> AdaptiveState:
        """Double the interval after a refresh that changed little; the first has no old one."""
        assert overlap is not None
        stable = (overlap > self.threshold) & (state.steps > 0)
        longer = jnp.minimum(2 * state.interval, self.longest)
        interval = jnp.where(refreshed & stable, longer, state.interval)
        due_next = jnp.where(refreshed, state.steps + interval, state.due_at)
        return AdaptiveState(optax.safe_increment(state.steps), interval, due_next)


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


def resolve(update_interval: Any, stagger: bool = False) -> Refresh:
    """Turn what `update_interval=` and `stagger=` take into a schedule.

    Raises:
      TypeError, ValueError: if it is none, or below 1.
    """
    if stagger:
        if not isinstance(update_interval, int) or update_interval < 2:
            raise ValueError(
                f"stagger=True spreads refreshes over an interval, but update_interval="
                f"{update_interval!r} is no int above 1; give one, or leave stagger out."
            )
        return Staggered(update_interval)
    if isinstance(update_interval, Refresh):
        return update_interval
    if callable(update_interval):
        return When(update_interval)
    if isinstance(update_interval, jax.Array):  # under optax.inject_hyperparams
        return Every(update_interval)
    if isinstance(update_interval, bool) or not isinstance(update_interval, int):
        raise TypeError(
            f"update_interval={update_interval!r} must be an int, a function count -> bool, or a "
            "schedule such as lro.adaptive()."
        )
    if update_interval < 1:
        raise ValueError(f"update_interval={update_interval} must be at least 1.")
    return EveryStep() if update_interval == 1 else Every(update_interval)

"""The transport axis: what happens to the inner optimizer's moments when the subspace changes."""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lowrank_optax.axes import moments
from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.projections.base import Transition

__all__ = [
    "Change",
    "Keep",
    "Reset",
    "Rotate",
    "RotateFirstMoment",
    "RotateMoments",
    "Transport",
    "resolve",
]


@dataclasses.dataclass(frozen=True)
class Change:
    """A change of the subspace, as a transport sees it."""

    inner: optax.GradientTransformation  #: for the structure of its state
    state: Any  #: the inner optimizer's
    fresh: Any  #: the state that it starts from
    template: Any  #: tree of what the inner optimizer sees, for shapes
    transitions: Any  #: tree of `Transition`, like the template

    def with_fields(self, **fields: Any) -> Any:
        """The state with the leaves of fields replaced, wherever in it they are."""
        replaced = {}
        for name, tree in fields.items():
            (place,) = moments.fields(self.state, name, self.template)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                replaced[place + path] = leaf
        return jax.tree_util.tree_map_with_path(lambda path, x: replaced.get(path, x), self.state)

    def field(self, name: str) -> Any:
        """The state's one field of a name, wherever in it it is; None if there is none."""
        return moments.only(self.state, name, self.template)

    def map(self, function: Any, *trees: Any) -> Any:
        """`function(transition, *moments)` for every matrix, given trees of moments."""
        is_transition = lambda node: isinstance(node, Transition)
        return jax.tree.map(function, self.transitions, *trees, is_leaf=is_transition)


class Transport(abc.ABC):
    """Contract of the transport axis. Stateless."""

    name: str

    def check(self, parts: Any) -> None:
        """Raise if the inner one of the engine's `Parts` has no moments that could be moved."""
        del parts

    @abc.abstractmethod
    def __call__(self, change: Change) -> Any:
        """The inner optimizer's state for the new subspace."""

    def first_moment(self, transition: Transition, m: Any) -> Any:
        """Where the transport takes a first moment: by default to its new coordinates."""
        return transition.carry(m)

    def where(self, due: Any, change: Change) -> Any:
        """The same where it is time for a new subspace, by one scalar `lax.cond`."""
        if due is True:
            return self(change)
        return jax.lax.cond(due, lambda: self(change), lambda: change.state)

    def _refusal(self, moved: str, inner: optax.GradientTransformation) -> ValueError:
        name = moments.inner_name(inner)
        return ValueError(
            f"transport={self.name!r} moves {moved}, but the state of {name} has none; use "
            "transport='keep' or 'reset', or an inner optimizer such as optax.scale_by_adam()."
        )


@axis_value()
class Keep(Transport):
    """Leave every moment in its slot, whatever basis vector the slot now stands for (GaLore)."""

    name = "keep"

    def __call__(self, change: Change) -> Any:
        return change.state

    def first_moment(self, transition: Transition, m: Any) -> Any:
        del transition
        return m

    def where(self, due: Any, change: Change) -> Any:
        del due
        return change.state


@axis_value()
class Reset(Transport):
    """Start the inner optimizer anew, its step count included (FRUGAL)."""

    name = "reset"

    def __call__(self, change: Change) -> Any:
        return change.fresh

    def first_moment(self, transition: Transition, m: Any) -> Any:
        del transition
        return jnp.zeros_like(m)


@axis_value()
class Rotate(Transport):
    """Express every moment in the new subspace, x ← P_currentᵀ P_previous x (DCT-AdamW).

    A second moment ("nu") stays non-negative by its absolute value; in a fixed basis, where the
    product only moves rows, that changes nothing.
    """

    name = "rotate"

    def check(self, parts: Any) -> None:
        state = moments.template_state(parts.inner)
        marked = optax.tree.map_params(parts.inner, moments.is_moment, state)
        if not any(leaf is True for leaf in jax.tree.leaves(marked)):
            raise self._refusal("per-coordinate moments", parts.inner)

    def __call__(self, change: Change) -> Any:
        def move(x: Any, like: Any, transition: Transition) -> Any:
            # Factored statistics, which are no coordinates, stay what they are.
            return transition.carry(x) if x.shape == like.shape else x

        state = optax.tree.map_params(
            change.inner, move, change.state, change.template, change.transitions
        )
        squares = moments.fields(state, "nu", change.template)
        return jax.tree_util.tree_map_with_path(
            lambda path, x: jnp.abs(x) if moments.is_within(path, squares) else x, state
        )


@axis_value()
class RotateFirstMoment(Transport):
    """Express the first moment in the new subspace and leave the rest (GoLore, I3S hybrid)."""

    name = "rotate_first"

    def check(self, parts: Any) -> None:
        if not moves_first_moment(parts.inner):
            raise self._refusal("the first moment ('mu' or 'trace')", parts.inner)

    def __call__(self, change: Change) -> Any:
        field = _moved(change.state, change.template)
        moved = change.map(lambda transition, m: transition.carry(m), change.field(field))
        return change.with_fields(**{field: moved})


def moves_first_moment(inner: optax.GradientTransformation) -> bool:
    """Whether an inner optimizer has a first moment that "rotate_first" can move."""
    state = moments.template_state(inner)
    return moments.is_moment(moments.only(state, _moved(state)))


def _moved(state: Any, params: Any = None) -> str:
    """The field of the first moment that `RotateFirstMoment` moves, if there is one."""
    return "trace" if moments.only(state, "mu", params) is None else "mu"


@axis_value("b1", "b2")
class RotateMoments(Transport):
    """LDAdam's rule, which rotates the statistics that the moments estimate.

    With R = Pᵀ_previous P_current and t steps taken, n = Rᵀ m and v becomes the absolute value of
    (1 − β₂ᵗ) ((R²)ᵀ (v / (1 − β₂ᵗ) − (m / (1 − β₁ᵗ))²) + (n / (1 − β₁ᵗ))²), with squares
    entrywise: the variance is rotated as a variance and the squared mean is added back. b1 and b2
    are the decay rates of the inner Adam.

    Reference:
      arXiv 2410.16103, algorithm 1.
    """

    b1: Any = 0.9
    b2: Any = 0.999
    name = "rotate_moments"

    def check(self, parts: Any) -> None:
        needed, remedy = ("mu", "nu", "count"), "use transport='keep' or 'reset'"
        moments.require_fields("transport='rotate_moments'", parts.inner, needed, remedy)

    def __call__(self, change: Change) -> Any:
        t = jnp.maximum(change.field("count"), 1)
        first, second = 1 - self.b1**t, 1 - self.b2**t
        mu, nu = change.field("mu"), change.field("nu")

        def rotate_second(transition: Transition, m: Any, v: Any) -> Any:
            m = m.astype(v.dtype)
            spread = transition.carry_squared(v / second - jnp.square(m / first))
            n = transition.carry(m)
            return jnp.abs(second * (spread + jnp.square(n / first))).astype(v.dtype)

        return change.with_fields(
            mu=change.map(lambda transition, m: transition.carry(m), mu),
            nu=change.map(rotate_second, mu, nu),
        )


TRANSPORTS: dict[str, Transport] = {
    transport.name: transport
    for transport in (Keep(), Reset(), Rotate(), RotateFirstMoment(), RotateMoments())
}


def resolve(transport: str | Transport) -> Transport:
    """The transport of a name; raises a ValueError if the name is unknown."""
    if isinstance(transport, Transport):
        return transport
    if transport not in TRANSPORTS:
        raise ValueError(f"transport={transport!r} is unknown; use one of {tuple(TRANSPORTS)}.")
    return TRANSPORTS[transport]

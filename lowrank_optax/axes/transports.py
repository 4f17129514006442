"""The transport axis: what happens to the inner optimizer's moments when the subspace changes."""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lowrank_optax.axes.projections.base import Projection

# Large enough that an inner optimizer that stores large arrays in 8 bits does so.
TEMPLATE = jax.ShapeDtypeStruct((256, 64), jnp.float32)


@dataclasses.dataclass(frozen=True)
class Change:
    """A change of the subspace, as a transport sees it.

    Attributes:
      inner: the inner optimizer.
      state: its state.
      template: tree of low-rank zeros, like what the inner optimizer sees.
      previous: tree of the old bases.
      current: tree of the new ones.
      projection: what expresses coordinates of one basis in another one.
    """

    inner: optax.GradientTransformation
    state: Any
    template: Any
    previous: Any
    current: Any
    projection: Projection

    def with_fields(self, **fields: Any) -> Any:
        """The state with fields replaced, wherever in it they are."""
        return optax.tree_utils.tree_set(self.state, **fields)

    def field(self, name: str) -> Any:
        """A field of the state, wherever in it it is."""
        return optax.tree_utils.tree_get(self.state, name)

    def carried(self, moment: Any) -> Any:
        """A tree of low-rank arrays in the new coordinates."""
        return jax.tree.map(self.projection.carry, moment, self.previous, self.current)


class Transport(abc.ABC):
    """Contract of the transport axis. Hashable and stateless."""

    name: str

    def check(self, inner: optax.GradientTransformation) -> None:
        """Raise if the inner optimizer has no moments that this transport could move."""
        del inner

    @abc.abstractmethod
    def __call__(self, change: Change) -> Any:
        """The inner optimizer's state for the new subspace."""


@dataclasses.dataclass(frozen=True)
class Keep(Transport):
    """Leave every moment in its slot, whatever basis vector the slot now stands for (GaLore)."""

    name = "keep"

    def __call__(self, change: Change) -> Any:
        """The state as it is."""
        return change.state


@dataclasses.dataclass(frozen=True)
class Reset(Transport):
    """Start the inner optimizer anew, its step count included (FRUGAL)."""

    name = "reset"

    def __call__(self, change: Change) -> Any:
        """A fresh state."""
        return change.inner.init(change.template)


@dataclasses.dataclass(frozen=True)
class Rotate(Transport):
    """Express every moment in the new subspace, x ← x Pᵀ_previous P_current (DCT-AdamW).

    A second moment ("nu") stays non-negative by its absolute value; in a fixed basis, where the
    product only moves columns, that changes nothing.
    """

    name = "rotate"

    def check(self, inner: optax.GradientTransformation) -> None:
        """Raise unless the inner optimizer keeps an array like its input."""
        state = jax.eval_shape(inner.init, TEMPLATE)
        marked = optax.tree.map_params(inner, _is_moment, state)
        if not any(leaf is True for leaf in jax.tree.leaves(marked)):
            raise ValueError(
                f"transport='rotate' moves per-coordinate moments, but the state of "
                f"{inner_name(inner)} has none; use transport='keep' or 'reset', or an inner "
                "optimizer such as optax.scale_by_adam()."
            )

    def __call__(self, change: Change) -> Any:
        """Every array like the input is carried over."""
        shapes = jax.tree.map(lambda leaf: leaf.shape, change.template)

        def move(x: Any, shape: tuple[int, ...], old: Any, new: Any) -> Any:
            return change.projection.carry(x, old, new) if x.shape == shape else x

        state = optax.tree.map_params(
            change.inner, move, change.state, shapes, change.previous, change.current
        )
        if optax.tree_utils.tree_get_all_with_path(state, "nu"):
            nu = optax.tree_utils.tree_get(state, "nu")
            state = optax.tree_utils.tree_set(state, nu=jax.tree.map(jnp.abs, nu))
        return state


@dataclasses.dataclass(frozen=True)
class RotateFirstMoment(Transport):
    """Express the first moment in the new subspace and leave the rest (GoLore, I3S hybrid)."""

    name = "rotate_first"

    def check(self, inner: optax.GradientTransformation) -> None:
        """Raise unless the inner optimizer keeps a first moment."""
        state = jax.eval_shape(inner.init, TEMPLATE)
        field = _first_moment(state)
        if field is None or not _is_moment(optax.tree_utils.tree_get(state, field)):
            raise ValueError(
                f"transport='rotate_first' moves the first moment ('mu' or 'trace'), but the state "
                f"of {inner_name(inner)} has none; use transport='keep' or 'reset', or an inner "
                "optimizer such as optax.scale_by_adam()."
            )

    def __call__(self, change: Change) -> Any:
        """The first moment is carried over."""
        field = _first_moment(change.state)
        assert field is not None
        return change.with_fields(**{field: change.carried(change.field(field))})


def _is_moment(leaf: Any) -> bool:
    """Whether a leaf of a state for `TEMPLATE` is a plain array with one entry per coordinate."""
    return (
        isinstance(leaf, jax.ShapeDtypeStruct)
        and leaf.shape == TEMPLATE.shape
        and jnp.issubdtype(leaf.dtype, jnp.floating)
    )


def _first_moment(state: Any) -> str | None:
    found = lambda field: len(optax.tree_utils.tree_get_all_with_path(state, field)) == 1
    return next((field for field in ("mu", "trace") if found(field)), None)


@dataclasses.dataclass(frozen=True)
class RotateMoments(Transport):
    """LDAdam's rule, which rotates the statistics that the moments estimate.

    With R = Pᵀ_previous P_current and t steps taken, n = m R and
    v ← |(1 − β₂ᵗ) ((v / (1 − β₂ᵗ) − (m / (1 − β₁ᵗ))²) R² + (n / (1 − β₁ᵗ))²)|, squares entrywise:
    the variance is rotated as a variance and the squared mean is added back.

    Attributes:
      b1, b2: decay rates of the inner Adam.

    Reference:
      arXiv 2410.16103, algorithm 1.
    """

    b1: Any = 0.9
    b2: Any = 0.999
    name = "rotate_moments"

    def check(self, inner: optax.GradientTransformation) -> None:
        """Raise unless the inner optimizer keeps Adam's two moments."""
        require_fields(
            "transport='rotate_moments'",
            inner,
            ("mu", "nu", "count"),
            "use transport='keep' or 'reset'",
        )

    def __call__(self, change: Change) -> Any:
        """Both moments."""
        t = jnp.maximum(change.field("count"), 1)
        first, second = 1 - self.b1**t, 1 - self.b2**t
        mu, projection = change.field("mu"), change.projection

        def rotate_second(m: Any, v: Any, old: Any, new: Any) -> Any:
            n = projection.carry(m, old, new)
            spread = projection.carry_squared(v / second - jnp.square(m / first), old, new)
            return jnp.abs(second * (spread + jnp.square(n / first))).astype(v.dtype)

        nu = jax.tree.map(rotate_second, mu, change.field("nu"), change.previous, change.current)
        return change.with_fields(mu=change.carried(mu), nu=nu)


def require_fields(
    user: str, inner: optax.GradientTransformation, fields: tuple[str, ...], remedy: str
) -> None:
    """Raise unless the inner optimizer's state has one of each field, as plain arrays."""
    state = jax.eval_shape(inner.init, TEMPLATE)

    def usable(field: str) -> bool:
        found = optax.tree_utils.tree_get_all_with_path(state, field)
        return len(found) == 1 and (field == "count" or _is_moment(found[0][1]))

    missing = [field for field in fields if not usable(field)]
    if missing:
        raise ValueError(
            f"{user} uses the moments {fields}, but the state of {inner_name(inner)} has no "
            f"{missing}; {remedy}, or use an inner optimizer such as optax.scale_by_adam()."
        )


def inner_name(inner: optax.GradientTransformation) -> str:
    """The name of the function that made a transformation, for messages."""
    name = getattr(inner.init, "__qualname__", type(inner.init).__name__).split(".")[0]
    return "a stateless transformation" if name == "init_empty_state" else name


TRANSPORTS: dict[str, Transport] = {
    transport.name: transport
    for transport in (Keep(), Reset(), Rotate(), RotateFirstMoment(), RotateMoments())
}


def resolve(transport: str | Transport) -> Transport:
    """Turn a name into a transport.

    Raises:
      ValueError: if the name is unknown.
    """
    if isinstance(transport, Transport):
        return transport
    if transport not in TRANSPORTS:
        raise ValueError(f"transport={transport!r} is unknown; use one of {tuple(TRANSPORTS)}.")
    return TRANSPORTS[transport]

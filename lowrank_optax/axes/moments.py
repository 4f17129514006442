"""What an inner optimizer keeps in its state, for the parts that move or follow it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

# Large enough that an inner optimizer that stores large arrays in 8 bits does so.
TEMPLATE = jax.ShapeDtypeStruct((256, 64), jnp.float32)

FIRST_MOMENTS = ("mu", "trace", "ema")
"""What optax's transformations and ours call a first moment in their states."""


def template_state(inner: optax.GradientTransformation) -> Any:
    """Shapes of the state of an inner optimizer for `TEMPLATE`."""
    return jax.eval_shape(inner.init, TEMPLATE)


def is_moment(leaf: Any) -> bool:
    """Whether a leaf of a state for `TEMPLATE` is a plain array with one entry per coordinate."""
    return (
        isinstance(leaf, jax.ShapeDtypeStruct)
        and leaf.shape == TEMPLATE.shape
        and jnp.issubdtype(leaf.dtype, jnp.floating)
    )


def has_one(state: Any, field: str) -> bool:
    """Whether a state has exactly one field of a name, wherever in it it is."""
    return len(optax.tree_utils.tree_get_all_with_path(state, field)) == 1


def first_moment(state: Any) -> Any:
    """The tree of first moments in a state if it has one, as plain arrays; else None."""
    found = [field for field in FIRST_MOMENTS if has_one(state, field)]
    if len(found) != 1:
        return None
    moment = optax.tree_utils.tree_get(state, found[0])
    # Quantised moments are more leaves than there are in the second moment's tree of arrays.
    floating = (jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(moment))
    return moment if all(floating) else None


def require_fields(
    user: str, inner: optax.GradientTransformation, fields: tuple[str, ...], remedy: str
) -> None:
    """Raise unless the state has one of each field, as plain arrays; the message names the user."""
    state = template_state(inner)

    def usable(field: str) -> bool:
        found = optax.tree_utils.tree_get_all_with_path(state, field)
        return len(found) == 1 and (field == "count" or is_moment(found[0][1]))

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

"""What an inner optimizer keeps in its state, for the parts that move or follow it."""

from collections.abc import Iterable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

Path: TypeAlias = tuple[Any, ...]
"""A path in a pytree, as JAX writes it."""

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


def fields(state: Any, name: str, params: Any = None) -> dict[Path, Any]:
    """What a state's fields of a name hold, by their paths in it.

    A parameter may have the name of a field, and a state holds trees like the parameters. So keys
    of dictionaries are no fields, nor are attributes of the types that the parameters' tree
    `params` is made of; None for one array.
    """
    types = {each.__name__ for each in _node_types(jax.tree.structure(params))}

    def is_own(path: Any, _: Any) -> bool:
        is_attribute = bool(path) and isinstance(path[-1], optax.tree_utils.NamedTupleKey)
        return is_attribute and path[-1].tuple_name not in types

    found = optax.tree_utils.tree_get_all_with_path(state, name, is_own)
    return {tuple(map(_entry, path)): value for path, value in found}


def _node_types(treedef: Any) -> set[type]:
    """The types of all containers in a tree."""
    node = treedef.node_data()
    return set() if node is None else {node[0]}.union(*map(_node_types, treedef.children()))


def _entry(key: Any) -> Any:
    """An entry of a path as JAX writes it."""
    is_field = isinstance(key, optax.tree_utils.NamedTupleKey)
    return jax.tree_util.GetAttrKey(key.name) if is_field else key


def is_within(path: Path, paths: Iterable[Path]) -> bool:
    """Whether a path of a leaf goes through one of some other paths."""
    return any(path[: len(each)] == each for each in paths)


def only(state: Any, name: str, params: Any = None) -> Any:
    """What a state's one field of a name holds; None if it has none or several."""
    found = [*fields(state, name, params).values()]
    return found[0] if len(found) == 1 else None


def first_moment(state: Any, params: Any = None) -> Any:
    """The tree of first moments in a state if it has one, as plain arrays; else None."""
    found = [moment for name in FIRST_MOMENTS if (moment := only(state, name, params)) is not None]
    if len(found) != 1:
        return None
    # Quantised moments are more leaves than there are in the second moment's tree of arrays.
    floating = (jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(found[0]))
    return found[0] if all(floating) else None


def require_fields(
    user: str, inner: optax.GradientTransformation, names: tuple[str, ...], remedy: str
) -> None:
    """Raise unless the state has one of each field, as plain arrays; the message names the user."""
    state = template_state(inner)

    def usable(name: str) -> bool:
        found = only(state, name)
        return is_moment(found) or (name == "count" and found is not None)

    missing = [name for name in names if not usable(name)]
    if missing:
        raise ValueError(
            f"{user} uses the moments {names}, but the state of {inner_name(inner)} has not one "
            f"of each of {missing} as a plain array; {remedy}, or use an inner optimizer such as "
            "optax.scale_by_adam()."
        )


def require_first_moment(user: str, inner: optax.GradientTransformation, remedy: str) -> None:
    """Raise unless the state has one first moment, Adam's, and counts its steps."""
    require_fields(user, inner, ("mu", "count"), remedy)
    if first_moment(template_state(inner)) is None:
        raise ValueError(
            f"{user} uses the first moment, but the state of {inner_name(inner)} has several; "
            f"{remedy}, or use an inner optimizer such as optax.scale_by_adam()."
        )


def inner_name(inner: optax.GradientTransformation) -> str:
    """The name of the function that made a transformation, for messages."""
    name = getattr(inner.init, "__qualname__", type(inner.init).__name__).split(".")[0]
    return "a stateless transformation" if name == "init_empty_state" else name

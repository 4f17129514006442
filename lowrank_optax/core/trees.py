"""Trees that belong to each other: by path, and where one has `None` and the other an array."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax


def path_string(path: Any) -> str:
    """The "/"-joined form of a JAX key path, to which patterns and messages refer."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaf_paths(tree: Any) -> list[str]:
    """The "/"-joined paths of a tree's leaves, in `jax.tree.leaves` order."""
    return [path_string(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def at_paths(
    tree: Any, paths: Sequence[str], is_leaf: Callable[[Any], bool] | None = None
) -> list[Any]:
    """The values of a tree, or of a prefix of it, at the paths of another tree's leaves.

    Args:
      tree: the values; a leaf stands for everything below its path.
      paths: where to look.
      is_leaf: as for `jax.tree.leaves`.

    Raises:
      ValueError: if the tree says nothing about a path.

    Example:
      >>> at_paths({"a": 1, "b": {"c": 2}}, ["a/x", "a/y", "b/c"])
      [1, 1, 2]
    """
    given = {
        path_string(path): value
        for path, value in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    }
    return [given[_longest_prefix(path, given)] for path in paths]


def _longest_prefix(path: str, given: dict[str, Any]) -> str:
    parts = path.split("/")
    for length in range(len(parts), -1, -1):
        prefix = "/".join(parts[:length])
        if prefix in given:
            return prefix
    raise ValueError(f"nothing is given for {path}; the paths are {', '.join(given)}.")


def has_masked(tree: Any) -> bool:
    """Whether a tree is a part of another one, with `optax.MaskedNode` in place of the rest."""
    is_masked = lambda node: isinstance(node, optax.MaskedNode)
    return any(map(is_masked, jax.tree.leaves(tree, is_leaf=is_masked)))


def without_none(
    update: Callable[..., tuple[Any, Any]],
) -> Callable[..., tuple[Any, Any]]:
    """Let `update(updates, state, params, **extra_args)` accept `None` beside a parameter.

    A missing gradient counts as zero for the state, and its update is `None` again.

    Args:
      update: of an optax transformation that takes trees without `None` in place of arrays.
    """

    def wrapped(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        if params is None or jax.tree.structure(updates) == jax.tree.structure(params):
            return update(updates, state, params, **extra_args)
        is_none = lambda node: node is None
        filled = jax.tree.map(
            lambda g, p: jax.tree.map(jnp.zeros_like, p) if g is None else g,
            updates,
            params,
            is_leaf=is_none,
        )
        stepped, state = update(filled, state, params, **extra_args)
        kept = jax.tree.map(
            lambda g, u: None if g is None else u, updates, stepped, is_leaf=is_none
        )
        return kept, state

    return wrapped

"""Trees that belong to each other by path."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
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


def in_own_structure(state: Any, updates: Any, init: Callable[[Any], Any]) -> Any:
    """A state whose NamedTuples are NamedTuples again.

    `flax.nnx.Optimizer` hands out updates as an `nnx.State`, and of a state what lies below a
    parameter as such mappings too, whatever it was. Its arrays are found again by their paths.

    Args:
      state: what `init` or an update returned, perhaps by way of nnx.
      updates: the gradients; dictionaries, lists and tuples of arrays leave the state as it is.
      init: makes the state from the parameters' shapes.
    """
    if isinstance(updates, dict) or not isinstance(updates, Mapping):
        return state
    template = jax.eval_shape(init, updates)
    found = {path_string(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    return jax.tree_util.tree_map_with_path(lambda path, _: found[path_string(path)], template)

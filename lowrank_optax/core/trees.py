"""Trees that belong to each other by path."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import optax


def path_string(path: Any) -> str:
    """The "/"-joined form of a JAX key path, to which patterns and messages refer."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaf_paths(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[str]:
    """The "/"-joined paths of a tree's leaves, in `jax.tree.leaves` order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return [path_string(path) for path, _ in leaves]


def at_paths(
    tree: Any,
    paths: Sequence[str],
    is_leaf: Callable[[Any], bool] | None = None,
    missing: str = "nothing is given for {path}; the paths are {given}.",
) -> list[Any]:
    """The values of a tree, or of a prefix of it, at the paths of another tree's leaves.

    A leaf stands for everything below its path; a ValueError says that there is none for a path.
    """
    given = {
        path_string(path): value
        for path, value in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    }

    def at(path: str) -> Any:
        parts = path.split("/")
        for length in range(len(parts), -1, -1):
            prefix = "/".join(parts[:length])
            if prefix in given:
                return given[prefix]
        raise ValueError(missing.format(path=path, given=", ".join(given)))

    return [at(path) for path in paths]


def has_masked(tree: Any) -> bool:
    """Whether a tree is a part of another one, with `optax.MaskedNode` in place of the rest."""
    is_masked = lambda node: isinstance(node, optax.MaskedNode)
    return any(map(is_masked, jax.tree.leaves(tree, is_leaf=is_masked)))


def is_none(node: Any) -> bool:
    """For `is_leaf`, where None stands for a parameter or its gradient."""
    return node is None


def has_absent(tree: Any, expression: re.Pattern[str]) -> bool:
    """Whether a parameter that a path's expression means may only not be here: the tree has None at
    such a path, or is a part of another one."""
    with_none = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_none)
    absent = (path_string(path) for path, leaf in with_none if leaf is None)
    return has_masked(tree) or any(map(expression.search, absent))


def in_own_structure(state: Any, updates: Any, init: Callable[[Any], Any]) -> Any:
    """A state whose NamedTuples are NamedTuples again.

    `flax.nnx.Optimizer` hands out updates as an `nnx.State`, and of a state what lies below a
    parameter as such mappings too, whatever it was. Its arrays are found again by their paths.

    Updates that are dictionaries, lists and tuples of arrays leave the state as it is.
    """
    if isinstance(updates, dict) or not isinstance(updates, Mapping):
        return state
    template = jax.eval_shape(init, updates)
    found = {path_string(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    return jax.tree_util.tree_map_with_path(lambda path, _: found[path_string(path)], template)


@contextlib.contextmanager
def blaming_the_state(state: Any, updates: Any, init: Callable[[Any], Any]) -> Iterator[None]:
    """Where a step fails, name what of the state is not as `init` makes it, if something is."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError):
        _check_belongs(state, updates, init)
        raise


def _check_belongs(state: Any, updates: Any, init: Callable[[Any], Any]) -> None:
    """Raise a ValueError if a state is not of the shapes that `init` makes for such updates."""
    expected, found = (
        {path_string(path): tuple(getattr(leaf, "shape", ())) for path, leaf in paths}
        for paths in map(
            jax.tree_util.tree_leaves_with_path, (jax.eval_shape(init, updates), state)
        )
    )
    for path in (*expected, *found):
        if expected.get(path) != found.get(path):
            has, wants = (
                f"of shape {each[path]}" if path in each else "absent" for each in (found, expected)
            )
            raise ValueError(
                f"the state is not of this optimizer and these parameters: {path} is {has} and "
                f"must be {wants}. It was made with another method, rank, mu_dtype or other "
                "parameters: initialise it anew, or give the former ones."
            )

"""What (regular expression, value) pairs say about the leaves of a tree, by their paths."""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax

from lowrank_optax.core.trees import has_absent, leaf_paths

Pairs: TypeAlias = Sequence[tuple[str, Any]]


def compile_pattern(pattern: str, name: str) -> re.Pattern[str]:
    """A regular expression that a user gave as the argument `name`."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{name} {pattern!r} is not a regular expression: {error}.") from error


def is_pairs(value: Any) -> bool:
    """Whether an argument is a list or tuple of one or more pairs."""
    return (
        isinstance(value, list | tuple)
        and not hasattr(value, "_fields")
        and len(value) > 0
        and all(isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str) for p in value)
    )


def matches(
    tree: Any, pairs: Pairs, name: str, is_leaf: Callable[[Any], bool] | None = None
) -> dict[int, Any]:
    """From the index of a leaf, for those that an expression is found in the path of, to its value.

    Raises:
      ValueError: naming the argument `name`, if an expression matches nothing or two match a leaf.
    """
    paths = leaf_paths(tree, is_leaf)
    found: dict[int, Any] = {}
    matched_by: dict[int, str] = {}
    for pattern, value in pairs:
        expression = compile_pattern(pattern, f"{name} pattern")
        hits = [i for i, path in enumerate(paths) if expression.search(path)]
        if not hits and not has_absent(tree, expression):
            raise ValueError(
                f"{name} pattern {pattern!r} matches no parameter; the paths are "
                f"{', '.join(paths)}."
            )
        for i in hits:
            if i in matched_by:
                raise ValueError(
                    f"{paths[i]} is matched by two {name} patterns, {matched_by[i]!r} "
                    f"and {pattern!r}; make them exclusive."
                )
            matched_by[i], found[i] = pattern, value
    return found


def mask_of(tree: Any, pairs: Pairs) -> Any:
    """A mask from (regular expression, boolean) pairs.

    Leaves that none matches are in it if the pairs only say which are not.

    Raises:
      ValueError: as `matches`.
    """
    found, elsewhere = matches(tree, pairs, "mask"), not any(value for _, value in pairs)
    treedef = jax.tree.structure(tree)
    leaves = range(len(jax.tree.leaves(tree)))
    return jax.tree.unflatten(treedef, [bool(found.get(i, elsewhere)) for i in leaves])

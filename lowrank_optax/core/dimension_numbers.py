"""Which leaves of a pytree are matrices, and which of their axes are "in" and "out"."""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import jax
import optax
from optax.contrib import MuonDimensionNumbers

from lowrank_optax.core.trees import has_masked, leaf_paths, path_string

DimensionNumbers: TypeAlias = (
    MuonDimensionNumbers
    | Sequence[tuple[str, MuonDimensionNumbers | None]]
    | Callable[[Any], Any]
    | Any
    | None
)
"""What `dimension_numbers=` takes: nothing, a pytree, a callable, or (regex, value) pairs."""

# Embeddings, output heads and norms, as Flax, Haiku, Equinox and Hugging Face models name them.
DEFAULT_EXCLUDE = (
    r"(?i)embed|norm"
    r"|(^|/)(wte|wpe|emb|tok_emb|pos_emb|ln|ln_\w+|ln\d+)(/|$)"
    r"|(^|/)(lm_head|head|output_head|logits\w*|classifier)(/|$)"
)


def matrix_dimension_numbers(params: Any, exclude: str = DEFAULT_EXCLUDE) -> Any:
    """The default mask: 2-D leaves that are no embeddings, output heads or norms by name.

    Args:
      params: pytree of arrays or `jax.ShapeDtypeStruct`s.
      exclude: regular expression, searched in each leaf's "/"-joined path; leaves in which it is
        found are not matrices.

    Returns:
      A tree like `params` of `MuonDimensionNumbers(0, 1)` for matrices and None for other leaves,
      to print, to change, and to pass as `dimension_numbers`.

    Raises:
      ValueError: if `exclude` is not a regular expression.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> params = {"embed": jnp.ones((9, 4)), "mlp": {"kernel": jnp.ones((4, 8))}}
      >>> mask = lro.matrix_dimension_numbers(params)
      >>> mask["embed"] is None, mask["mlp"]["kernel"].output_axis
      (True, 1)
    """
    pattern = _compile(exclude, "exclude")
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    numbers = [
        MuonDimensionNumbers(0, 1)
        if leaf.ndim == 2 and not pattern.search(path_string(path))
        else None
        for path, leaf in leaves
    ]
    return jax.tree.unflatten(treedef, numbers)


def resolve(
    params: Any, dimension_numbers: DimensionNumbers
) -> tuple[list[MuonDimensionNumbers | None], list[str]]:
    paths = leaf_paths(params)
    numbers = _resolve(params, paths, dimension_numbers, has_masked(params))
    numbers = [None if 0 in leaf.shape else n for n, leaf in zip(numbers, jax.tree.leaves(params))]
    return numbers, [
        f"{leaf.ndim}-D" if n is None else "" for n, leaf in zip(numbers, jax.tree.leaves(params))
    ]


def _resolve(
    params: Any, paths: list[str], dimension_numbers: DimensionNumbers, partial: bool
) -> list[MuonDimensionNumbers | None]:
    """Dimension numbers of every leaf, in `jax.tree.leaves` order; None = not a matrix.

    Args:
      params: pytree of arrays or shapes.
      paths: its "/"-joined leaf paths.
      dimension_numbers: in any of the forms of `DimensionNumbers`.
      partial: `params` is a masked part of the tree, so patterns need not all match.

    Raises:
      ValueError, TypeError: naming the parameter or pattern and the remedy.
    """
    if not paths:
        return []
    if dimension_numbers is None:
        dimension_numbers = matrix_dimension_numbers
    if callable(dimension_numbers):
        dimension_numbers = dimension_numbers(params)
    if _is_pairs(dimension_numbers):
        return _from_pairs(paths, cast(Any, dimension_numbers), partial)
    return _from_tree(paths, dimension_numbers)


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, MuonDimensionNumbers | optax.MaskedNode)


def _is_pairs(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and not isinstance(value, MuonDimensionNumbers)
        and len(value) > 0
        and all(isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str) for p in value)
    )


def _from_pairs(
    paths: list[str], pairs: Sequence[tuple[str, MuonDimensionNumbers | None]], partial: bool
) -> list[MuonDimensionNumbers | None]:
    found: list[MuonDimensionNumbers | None] = [None] * len(paths)
    matched_by: dict[int, str] = {}
    for pattern, value in pairs:
        hits = [i for i, path in enumerate(paths) if _compile(pattern, "pattern").search(path)]
        if not hits and not partial:
            raise ValueError(
                f"dimension_numbers pattern {pattern!r} matches no parameter; the paths are "
                f"{', '.join(paths)}."
            )
        for i in hits:
            if i in matched_by:
                raise ValueError(
                    f"{paths[i]} is matched by two dimension_numbers patterns, {matched_by[i]!r} "
                    f"and {pattern!r}; make them exclusive."
                )
            matched_by[i] = pattern
            found[i] = value
    return found


def _from_tree(paths: list[str], tree: Any) -> list[MuonDimensionNumbers | None]:
    """Look leaves up by path, so that prefixes work and a masked tree may miss leaves."""
    given = {
        path_string(path): value
        for path, value in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_number)
    }
    for path, value in given.items():
        if not _is_number(value):
            raise TypeError(
                f"dimension_numbers at {path or 'the root'} is {value!r}; use "
                "optax.contrib.MuonDimensionNumbers, or None for a leaf that is not a matrix."
            )
    found: list[MuonDimensionNumbers | None] = []
    for path in paths:
        parts = path.split("/")
        prefixes = ["/".join(parts[:length]) for length in range(len(parts), -1, -1)]
        hit = next((prefix for prefix in prefixes if prefix in given), None)
        if hit is None:
            raise ValueError(
                f"dimension_numbers says nothing about {path}; give MuonDimensionNumbers, or None "
                "if it is not a matrix."
            )
        value = given[hit]
        found.append(value if isinstance(value, MuonDimensionNumbers) else None)
    return found


def _compile(pattern: str, name: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{name} {pattern!r} is not a regular expression: {error}.") from error

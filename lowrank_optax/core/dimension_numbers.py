"""Which leaves of a pytree are matrices, and which of their axes are "in" and "out"."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers

from lowrank_optax.core.names import DEFAULT_EXCLUDE, why_excluded
from lowrank_optax.core.patterns import compile_pattern, is_pairs, matches
from lowrank_optax.core.trees import at_paths, leaf_paths, path_string

DimensionNumbers: TypeAlias = (
    MuonDimensionNumbers
    | Sequence[tuple[str, MuonDimensionNumbers | None]]
    | Callable[[Any], Any]
    | Any
    | None
)
"""What `dimension_numbers=` takes: nothing, a pytree, a callable, or (regex, value) pairs."""


@dataclasses.dataclass(frozen=True)
class PerHead:
    """Dimension numbers of a kernel, one axis of which is that of several heads; of `per_head`.

    Attributes:
      numbers: of the whole kernel.
      side: "in" or "out", that of the heads.
      head_dim: width of one.
    """

    numbers: MuonDimensionNumbers
    side: str
    head_dim: int


Numbers: TypeAlias = MuonDimensionNumbers | PerHead


class Resolution(NamedTuple):
    """What every leaf is, in `jax.tree.leaves` order."""

    numbers: tuple[Numbers | None, ...]
    """Which axes are "in" and "out", or None where a leaf is not a matrix."""
    reasons: tuple[str, ...]
    """Why a leaf is not a matrix, in a few words; "" where it is one."""


def matrix_dimension_numbers(params: Any, exclude: str = DEFAULT_EXCLUDE) -> Any:
    """The default mask: 2-D leaves that are no embeddings, output heads, norms or biases by name.

    A name is the part of a leaf's path that says what it is for: the last component, but for
    `kernel`, `weight`, `w`, a trailing `value` and numbers. Of `PreNormBlock_0/mlp/kernel` it is
    `mlp`.

    Args:
      params: pytree of arrays, or of `jax.ShapeDtypeStruct`.
      exclude: regular expression of names that are not matrices, each matched whole, in place of
        the default one. If it contains "/" it is searched in the "/"-joined paths: "^encoder/"
        excludes all of an encoder.

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
    numbers = _by_default(params, exclude).numbers
    return jax.tree.unflatten(jax.tree.structure(params), numbers)


def resolve(params: Any, dimension_numbers: DimensionNumbers = None) -> Resolution:
    """What every leaf is, and why some are not matrices.

    Patterns must all match something, unless a part of the tree is masked (`optax.masked`,
    `optax.partition`): then they may be about that part. A leaf that is None is something.
    """
    paths = leaf_paths(params)
    if not paths:
        return Resolution((), ())
    if dimension_numbers is None or dimension_numbers is matrix_dimension_numbers:
        return _by_default(params, DEFAULT_EXCLUDE)
    if callable(dimension_numbers):
        dimension_numbers = dimension_numbers(params)
    if isinstance(dimension_numbers, Resolution):  # of `per_head`
        return dimension_numbers
    if is_pairs(dimension_numbers):
        numbers, excluded = _from_pairs(params, paths, cast(Any, dimension_numbers))
    else:
        numbers = _from_tree(paths, dimension_numbers)
        excluded = ["excluded by dimension_numbers"] * len(paths)
    leaves = jax.tree.leaves(params)
    for path, leaf, number in zip(paths, leaves, numbers, strict=True):
        if number is not None:
            _check_real(path, leaf)
    shapes = [np.shape(leaf) for leaf in leaves]
    return _resolution(
        numbers,
        [
            _empty(shape) if number is not None else _too_few_axes(shape) or reason
            for shape, number, reason in zip(shapes, numbers, excluded, strict=True)
        ],
    )


def _by_default(params: Any, exclude: str) -> Resolution:
    pattern = compile_pattern(exclude, "exclude")
    reasons = []
    for path, leaf in zip(leaf_paths(params), jax.tree.leaves(params), strict=True):
        shape = np.shape(leaf)
        reason = _too_few_axes(shape) or why_excluded(path, pattern) or _empty(shape)
        reason = reason or _not_real(leaf)
        if len(shape) > 2 and not reason:
            reason = f"{len(shape)}-D: name its axes in dimension_numbers"
        reasons.append(reason)
    return _resolution([MuonDimensionNumbers(0, 1)] * len(reasons), reasons)


def _resolution(numbers: Sequence[Numbers | None], reasons: Sequence[str]) -> Resolution:
    """Numbers only where nothing speaks against it."""
    kept = (None if reason else number for number, reason in zip(numbers, reasons, strict=True))
    return Resolution(tuple(kept), tuple(reasons))


def _too_few_axes(shape: tuple[int, ...]) -> str:
    return {0: "scalar", 1: "1-D"}.get(len(shape), "")


def _empty(shape: tuple[int, ...]) -> str:
    return "empty" if 0 in shape else ""


def _not_real(leaf: Any) -> str:
    """Why an array cannot be a real matrix, whose directions are real; "" where it can."""
    dtype = jnp.result_type(leaf)
    return "" if jnp.issubdtype(dtype, jnp.floating) else f"{dtype}: not real floating numbers"


def _check_real(path: str, leaf: Any) -> None:
    reason = _not_real(leaf)
    if reason:
        raise TypeError(
            f"{path} of shape {np.shape(leaf)} is no matrix ({reason}), but dimension_numbers "
            "makes it one; give None for it."
        )


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, Numbers | optax.MaskedNode)


def _from_pairs(
    params: Any,
    paths: list[str],
    pairs: Sequence[tuple[str, Numbers | None]],
) -> tuple[list[Numbers | None], list[str]]:
    """The numbers, and why a leaf has none."""
    found = matches(params, pairs, "dimension_numbers")
    excluded = dict.fromkeys(found, "excluded by dimension_numbers")
    otherwise = "matched by no pattern of dimension_numbers"
    indices = range(len(paths))
    return [found.get(i) for i in indices], [excluded.get(i, otherwise) for i in indices]


def _from_tree(paths: list[str], tree: Any) -> list[Numbers | None]:
    """Look leaves up by path, so that prefixes work and a masked tree may miss leaves."""
    for path, value in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_number):
        if not _is_number(value):
            raise TypeError(
                f"dimension_numbers at {path_string(path) or 'the root'} is {value!r}; use "
                "optax.contrib.MuonDimensionNumbers, or None for a leaf that is not a matrix."
            )
    missing = (
        "dimension_numbers says nothing about {path}; give MuonDimensionNumbers, or None if it is "
        "not a matrix."
    )
    found = at_paths(tree, paths, is_leaf=_is_number, missing=missing)
    return [value if isinstance(value, Numbers) else None for value in found]

"""Kernels whose attention heads are matrices of their own."""

from collections.abc import Callable, Mapping
from typing import Any

from lowrank_optax.core.dimension_numbers import DimensionNumbers, PerHead, Resolution, resolve
from lowrank_optax.core.patterns import compile_pattern
from lowrank_optax.core.trees import has_absent, leaf_paths


def per_head(
    head_dim: Mapping[str, int],
    dimension_numbers: DimensionNumbers = None,
    *,
    side: str = "out",
) -> Callable[[Any], Any]:
    """For `dimension_numbers`: every head of a kernel is a matrix of its own.

    A kernel (in, heads · head_dim) is then a batch of `heads` matrices (in, head_dim), each with
    its own subspace, scale and singular values, as if it were a leaf; so is one of query, key and
    value side by side, if their heads are equally wide. Memory and step are those of separate
    leaves, compiled once. A kernel (in, heads, head_dim) needs none of this: leave its axis of
    heads out of its `MuonDimensionNumbers`.

    Where devices split the axis of heads, in whole heads each, every device works on its own ones
    and their state, and sends nothing for it. Where they hold parts of heads, those are gathered.
    Under `Auto` mesh axes, which do not say which of the two it is, they are gathered too unless
    the heads are a multiple of all devices; `with_shardings` says it.

    Args:
      head_dim: from a regular expression over the "/"-joined paths to the width of a head, such as
        {"(q|k|v)_proj/kernel": 64}.
      dimension_numbers: of all parameters, as for `matrix_specs`; may be another `per_head`.
      side: of W that the heads are on: "out" for queries, keys and values, "in" for the output
        projection.

    Returns:
      A function of the parameters that says what every leaf is.

    Raises:
      ValueError: for another side or a width below 1; and on its use, naming the parameter, if a
        pattern is no regular expression or matches no matrix, if two match one, or if its axis is
        no multiple of the width.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> params = {"q_proj": jnp.ones((16, 8)), "gate_proj": jnp.ones((16, 24))}
      >>> heads = lro.per_head({"q_proj": 4})
      >>> [spec.view for spec in lro.matrix_specs(params, dimension_numbers=heads)]
      [(16, 24), (2, 4, 16)]
      >>> tx = lro.tandem(0.02, dimension_numbers=heads)
    """
    if side not in ("in", "out"):
        raise ValueError(f"per_head: side={side!r} is unknown; use 'in' or 'out'.")
    for pattern, width in head_dim.items():
        if width < 1:
            raise ValueError(f"per_head: head_dim={width} of {pattern!r} must be at least 1.")

    def numbers(params: Any) -> Resolution:
        paths, (whole_numbers, reasons) = leaf_paths(params), resolve(params, dimension_numbers)
        found = list(whole_numbers)
        for pattern, width in head_dim.items():
            matches = compile_pattern(pattern, "head_dim")
            named = [i for i, path in enumerate(paths) if matches.search(path)]
            hits = [i for i in named if found[i] is not None]
            if named and not hits:
                raise ValueError(
                    f"per_head: {pattern!r} matches {paths[named[0]]}, which is no matrix: "
                    f"{reasons[named[0]]}. Give its numbers as the second argument, "
                    "dimension_numbers."
                )
            if not hits and not has_absent(params, matches):
                raise ValueError(
                    f"per_head: {pattern!r} matches no matrix; the paths are {', '.join(paths)}."
                )
            for i in hits:
                whole = found[i]
                if isinstance(whole, PerHead):
                    raise ValueError(f"per_head: {paths[i]} has heads already; name it once.")
                found[i] = PerHead(whole, side, width)
        return Resolution(tuple(found), reasons)

    return numbers


def in_heads(
    path: str, shape: tuple[int, ...], axes: dict[str, tuple[int, ...]], number: PerHead
) -> tuple[int, tuple[int, ...], dict[str, tuple[int, ...]]]:
    """The axis of heads, the shape with their number and width in its place, the axes of that."""
    if len(axes[number.side]) != 1:
        raise ValueError(
            f"per_head: {path} of shape {shape} has several {number.side} axes already; make the "
            "one of the heads a batch axis in dimension_numbers."
        )
    (axis,) = axes[number.side]
    heads, rest = divmod(shape[axis], number.head_dim)
    if rest:
        raise ValueError(
            f"per_head: axis {axis} of {path} of shape {shape} is not a multiple of "
            f"head_dim={number.head_dim}."
        )
    split = (*shape[:axis], heads, number.head_dim, *shape[axis + 1 :])
    moved = {side: tuple(i + (i >= axis) for i in axes[side]) for side in axes}
    return axis, split, moved

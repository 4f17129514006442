"""From a pytree leaf to a batch of matrices: the static specification of every leaf.

A leaf is a batch of weight matrices W of shape (out, in), read off its dimension numbers. One of
the two sides is compressed, and that side is moved to the last axis, so everything after this file
sees arrays of shape (..., m, n) with the compressed axis n last and knows no left or right.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from jaxtyping import Array, Shaped
from optax.contrib import MuonDimensionNumbers

from lowrank_optax.core.dimension_numbers import DimensionNumbers, path_string, resolve
from lowrank_optax.linalg.arguments import check_rank, resolve_rank
from lowrank_optax.sharding.types import spec_of

COMPRESS_CHOICES = ("smallest", "in", "out", "unsharded")


@dataclasses.dataclass(frozen=True)
class MatrixSpec:
    """How one leaf is seen as a batch of matrices with the compressed axis last.

    Attributes:
      path: "/"-joined path of the leaf.
      shape: shape of the leaf.
      batch_axes: axes of the leaf over which matrices are independent.
      row_axes: axes of the leaf that form m.
      column_axes: axes of the leaf that form the compressed n.
      side: "in" or "out", the side of W that is compressed.
      rank: r, resolved and clipped to n.
    """

    path: str
    shape: tuple[int, ...]
    batch_axes: tuple[int, ...]
    row_axes: tuple[int, ...]
    column_axes: tuple[int, ...]
    side: str
    rank: int

    @property
    def batch(self) -> tuple[int, ...]:
        """Sizes of the batch axes."""
        return tuple(self.shape[axis] for axis in self.batch_axes)

    @property
    def m(self) -> int:
        """Number of rows."""
        return math.prod(self.shape[axis] for axis in self.row_axes)

    @property
    def n(self) -> int:
        """Number of columns: the size of the compressed axis."""
        return math.prod(self.shape[axis] for axis in self.column_axes)

    @property
    def fan_in(self) -> int:
        """Size of W's in side."""
        return self.n if self.side == "in" else self.m

    @property
    def fan_out(self) -> int:
        """Size of W's out side."""
        return self.m if self.side == "in" else self.n

    def to_matrix(self, leaf: Shaped[Array, "..."]) -> Shaped[Array, "*batch m n"]:
        """View a leaf as (*batch, m, n)."""
        axes = self.batch_axes + self.row_axes + self.column_axes
        return leaf.transpose(axes).reshape(*self.batch, self.m, self.n)

    def from_matrix(self, matrix: Shaped[Array, "*batch m n"]) -> Shaped[Array, "..."]:
        """Undo `to_matrix`."""
        axes = self.batch_axes + self.row_axes + self.column_axes
        inverse = tuple(axes.index(axis) for axis in range(len(axes)))
        return matrix.reshape([self.shape[axis] for axis in axes]).transpose(inverse)


@dataclasses.dataclass(frozen=True)
class SpecTable:
    """The specification of every leaf of a tree, in `jax.tree.leaves` order; prints as a table."""

    paths: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    specs: tuple[MatrixSpec | None, ...]

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    def __str__(self) -> str:
        rows = [("path", "shape", "view (b, m, n)", "compressed", "rank")]
        for path, shape, spec in zip(self.paths, self.shapes, self.specs, strict=True):
            if spec is None:
                rows.append((path, str(shape), "-", "-", "-"))
            else:
                view = (math.prod(spec.batch), spec.m, spec.n)
                rows.append((path, str(shape), str(view), spec.side, str(spec.rank)))
        return format_table(rows)


class MatrixTree:
    """A pytree's leaves with their specifications; builds and reads trees of the same structure.

    Args:
      tree: pytree of arrays.
      table: its specifications, from `matrix_specs`.
    """

    def __init__(self, tree: Any, table: SpecTable):
        self.table = table
        self.leaves, treedef = jax.tree.flatten(tree)
        self.treedef: Any = treedef
        self.matrices = {i: spec for i, spec in enumerate(table) if spec is not None}

    def matrix(self, i: int) -> Shaped[Array, "*batch m n"]:
        """Leaf i as matrices."""
        return self.matrices[i].to_matrix(self.leaves[i])

    def typed(self, i: int) -> tuple[MatrixSpec, Any]:
        """Specification and dtype of leaf i."""
        return self.matrices[i], self.leaves[i].dtype

    def build(self, value: Callable[[int], Any]) -> Any:
        """A tree of `value(i)` at matrices, masked elsewhere."""
        return self.treedef.unflatten(
            value(i) if i in self.matrices else optax.MaskedNode() for i in range(len(self.leaves))
        )

    def read(self, tree: Any) -> dict[int, Any]:
        """The inverse of `build`."""
        nodes = self.treedef.flatten_up_to(tree)
        return {i: nodes[i] for i in self.matrices}

    def replace(self, steps: dict[int, Shaped[Array, "*batch m n"]]) -> Any:
        """The tree with its matrices replaced, in their own shape and dtype."""
        leaves = list(self.leaves)
        for i, step in steps.items():
            leaves[i] = self.matrices[i].from_matrix(step.astype(leaves[i].dtype))
        return self.treedef.unflatten(leaves)


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Align rows of text in columns, the first row being the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def matrix_specs(
    params: Any,
    rank: int | float = 128,
    *,
    dimension_numbers: DimensionNumbers = None,
    compress: str | Sequence[str | None] = "smallest",
    partial: bool = False,
) -> SpecTable:
    """Work out the matrix view, the compressed side and the rank of every leaf from its shape.

    Args:
      params: pytree of arrays or `jax.ShapeDtypeStruct`s.
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      dimension_numbers: None for `matrix_dimension_numbers`; else a pytree (or prefix) of
        `optax.contrib.MuonDimensionNumbers` or None, a callable from `params` to one, or
        (regex, value) pairs over the "/"-joined paths. Axes not named are batch axes.
      compress: side of W (out, in) to compress: "smallest" (a tie compresses "in"), "in", "out",
        "unsharded" (the smaller side that is not split over devices, so that no device needs
        another one's part of a row; the smaller one if both are), or one of "in" and "out" for
        every leaf, in the order of `jax.tree.leaves`.
      partial: `params` is a masked part of the tree, so patterns need not all match.

    Returns:
      One `MatrixSpec`, or None where the leaf is not a matrix, per leaf; prints as a table.

    Raises:
      ValueError, TypeError: naming the parameter, its shape and the remedy.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> print(lro.matrix_specs({"w": jnp.ones((4, 8)), "b": jnp.ones(8)}, rank=0.5))
      path  shape   view (b, m, n)  compressed  rank
      ----  ------  --------------  ----------  ----
      b     (8,)    -               -           -
      w     (4, 8)  (1, 8, 4)       in          2
    """
    check_rank(rank)
    if isinstance(compress, str) and compress not in COMPRESS_CHOICES:
        raise ValueError(f"compress={compress!r} is unknown; use one of {COMPRESS_CHOICES}.")
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = [path_string(path) for path, _ in leaves]
    dims = resolve(params, paths, dimension_numbers, partial)
    shapes = [tuple(leaf.shape) for _, leaf in leaves]
    choices = [compress] * len(leaves) if isinstance(compress, str) else compress
    specs = [
        None if number is None or 0 in leaf.shape else _spec(path, leaf, number, rank, choice)
        for path, (_, leaf), number, choice in zip(paths, leaves, dims, choices, strict=True)
    ]
    return SpecTable(tuple(paths), tuple(shapes), tuple(specs))


def _spec(
    path: str, leaf: Any, number: MuonDimensionNumbers, rank: int | float, compress: str | None
) -> MatrixSpec:
    shape = tuple(leaf.shape)
    axes = {
        "in": _axes(number.reduction_axis, "reduction_axis", path, shape),
        "out": _axes(number.output_axis, "output_axis", path, shape),
    }
    if set(axes["in"]) & set(axes["out"]):
        raise ValueError(
            f"{path} of shape {shape}: reduction_axis {axes['in']} and output_axis {axes['out']} "
            "overlap; give each axis one role."
        )
    sizes = {side: math.prod(shape[axis] for axis in axes[side]) for side in axes}
    side = "in" if sizes["out"] >= sizes["in"] else "out"
    if compress == "unsharded":
        side = _unsharded(path, leaf, axes, side)
    elif compress in axes:
        side = compress
    rows, columns = axes["out" if side == "in" else "in"], axes[side]
    batch = tuple(axis for axis in range(len(shape)) if axis not in rows + columns)
    return MatrixSpec(path, shape, batch, rows, columns, side, resolve_rank(rank, sizes[side]))


def _unsharded(path: str, leaf: Any, axes: dict[str, tuple[int, ...]], preferred: str) -> str:
    """The preferred side, or the other one if that alone is whole on every device."""
    partition = spec_of(leaf)
    if partition is None:
        raise ValueError(
            f"{path} of shape {tuple(leaf.shape)}: compress='unsharded' needs to know how the "
            "parameter is sharded, which under Auto mesh axes only the compiler does inside "
            "jax.jit; call tx.init on the sharded parameters outside of it, wrap the optimizer as "
            "lro.with_shardings(tx, param_shardings), or give the mesh Explicit axes."
        )
    split = {side: any(partition[axis] is not None for axis in axes[side]) for side in axes}
    other = "out" if preferred == "in" else "in"
    return other if split[preferred] and not split[other] else preferred


def _axes(
    axes: int | Sequence[int], name: str, path: str, shape: tuple[int, ...]
) -> tuple[int, ...]:
    given = (axes,) if isinstance(axes, int) else tuple(axes)
    if not given or any(not -len(shape) <= axis < len(shape) for axis in given):
        raise ValueError(
            f"{path} of shape {shape}: {name}={axes} does not name its axes; give axes in "
            f"[0, {len(shape)}), or None for a leaf that is not a matrix."
        )
    return tuple(axis % len(shape) for axis in given)

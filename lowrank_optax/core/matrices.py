"""From a pytree leaf to a batch of matrices: the static specification of every leaf.

Everything after this file sees arrays (..., n, m) with the compressed axis n first, and knows no
left or right. A JAX kernel (in, out) with in ≤ out is its own view: nothing is transposed.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Shaped

from lowrank_optax.core.dimension_numbers import DimensionNumbers, Numbers, PerHead, resolve
from lowrank_optax.core.per_head import in_heads
from lowrank_optax.core.spec_table import SpecTable
from lowrank_optax.core.trees import at_paths, leaf_paths
from lowrank_optax.linalg.arguments import check_rank, resolve_rank

SIDES = ("smallest", "in", "out")
RankOf: TypeAlias = Callable[[int, int], int]  # from n and m to r


@dataclasses.dataclass(frozen=True)
class MatrixSpec:
    """How one leaf is seen as a batch of matrices with the compressed axis first.

    Attributes:
      path: "/"-joined path of the leaf.
      shape: shape of the leaf, its axis of heads as two: their number and their width.
      batch_axes: axes of `shape` over which matrices are independent.
      n_axes: axes of `shape` that form the compressed n.
      m_axes: axes of `shape` that form m.
      side: "in" or "out", the side of W that is compressed.
      rank: r, as it is used.
      heads_axis: axis of the leaf that is that of heads, or None.
    """

    path: str
    shape: tuple[int, ...]
    batch_axes: tuple[int, ...]
    n_axes: tuple[int, ...]
    m_axes: tuple[int, ...]
    side: str
    rank: int
    heads_axis: int | None = None

    @property
    def batch(self) -> tuple[int, ...]:
        """Sizes of the batch axes."""
        return tuple(self.shape[axis] for axis in self.batch_axes)

    @property
    def n(self) -> int:
        """Size of the compressed axis."""
        return math.prod(self.shape[axis] for axis in self.n_axes)

    @property
    def m(self) -> int:
        """Size of the other axis."""
        return math.prod(self.shape[axis] for axis in self.m_axes)

    @property
    def leaf_shape(self) -> tuple[int, ...]:
        """Shape of the leaf."""
        axis = self.heads_axis
        if axis is None:
            return self.shape
        heads, width = self.shape[axis : axis + 2]
        return (*self.shape[:axis], heads * width, *self.shape[axis + 2 :])

    @property
    def view(self) -> tuple[int, ...]:
        """Shape (..., n, m) of the leaf as matrices."""
        return (*self.batch, self.n, self.m)

    @property
    def fan_in(self) -> int:
        """Size of W's in side."""
        return self.n if self.side == "in" else self.m

    @property
    def fan_out(self) -> int:
        """Size of W's out side."""
        return self.m if self.side == "in" else self.n

    def to_matrix(self, leaf: Shaped[Array, "..."]) -> Shaped[Array, "*batch n m"]:
        """View a leaf as (..., n, m)."""
        return self.split_heads(leaf).transpose(self._axes).reshape(self.view)

    def from_matrix(self, matrix: Shaped[Array, "*batch n m"]) -> Shaped[Array, "..."]:
        """Undo `to_matrix`."""
        axes = self._axes
        inverse = tuple(axes.index(axis) for axis in range(len(axes)))
        split = matrix.reshape([self.shape[axis] for axis in axes]).transpose(inverse)
        return self.join_heads(split)

    def split_heads(self, leaf: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """A leaf in `shape`."""
        return leaf.reshape(self.shape)

    def join_heads(self, split: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """Undo `split_heads`."""
        return split.reshape(self.leaf_shape)

    def by_axis(self, entries: Sequence[Any]) -> tuple[Any, ...]:
        """Mesh axes of the leaf's axes, for those of `shape`: of heads the number has them."""
        axis = self.heads_axis
        if axis is None:
            return tuple(entries)
        return (*entries[: axis + 1], None, *entries[axis + 1 :])

    @property
    def _axes(self) -> tuple[int, ...]:
        return self.batch_axes + self.n_axes + self.m_axes


class MatrixTree:
    """A pytree's leaves with their specifications; builds and reads trees of the same structure."""

    def __init__(self, tree: Any, table: SpecTable):
        self.table = table
        self.leaves, treedef = jax.tree.flatten(tree)
        self.treedef: Any = treedef
        self.matrices = {i: spec for i, spec in enumerate(table) if spec is not None}

    def of(self, tree: Any) -> "MatrixTree":
        """The same of another tree of this structure."""
        return MatrixTree(tree, self.table)

    def matrix(self, i: int) -> Shaped[Array, "*batch n m"]:
        """Leaf i as matrices."""
        return self.matrices[i].to_matrix(self.leaves[i])

    def dtype(self, i: int) -> Any:
        """dtype of leaf i."""
        return self.leaves[i].dtype

    def build(self, value: Callable[[int], Any]) -> Any:
        """A tree of `value(i)` at matrices, masked elsewhere."""
        return self.treedef.unflatten(
            value(i) if i in self.matrices else optax.MaskedNode() for i in range(len(self.leaves))
        )

    def read(self, tree: Any) -> dict[int, Any]:
        """The inverse of `build`."""
        nodes = self.treedef.flatten_up_to(tree)
        return {i: nodes[i] for i in self.matrices}

    def replace(self, steps: dict[int, Shaped[Array, "*batch n m"]]) -> Any:
        """The tree with its matrices replaced, in their own shape."""
        leaves = list(self.leaves)
        for i, step in steps.items():
            leaves[i] = self.matrices[i].from_matrix(step)
        return self.treedef.unflatten(leaves)


def matrix_specs(
    params: Any,
    rank: int | float | RankOf = 128,
    *,
    dimension_numbers: DimensionNumbers = None,
    compress: Any = "smallest",
) -> SpecTable:
    """Work out the matrix view, the compressed side and the rank of every leaf from its shape.

    Args:
      params: pytree of arrays, or of `jax.ShapeDtypeStruct`.
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension, clipped to the
        smaller side; or a function of n and m, such as the `rank_of` of a projection.
      dimension_numbers: None for `matrix_dimension_numbers`; else a pytree (or prefix) of
        `optax.contrib.MuonDimensionNumbers` or None, a callable from `params` to one, or
        (regex, value) pairs over the "/"-joined paths. Axes not named are batch axes.
      compress: side of W (out, in) to compress: "smallest" (a tie compresses "in"), "in", "out", or
        a pytree (or prefix) like `params` of these, such as `unsharded_sides` returns.

    Returns:
      One `MatrixSpec`, or None where the leaf is not a matrix, per leaf; prints as a table.

    Raises:
      ValueError, TypeError: naming the parameter, its shape and the remedy.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> print(lro.matrix_specs({"w": jnp.ones((4, 8)), "b": jnp.ones(8)}, rank=0.5))
      path  shape   view (b, n, m)  compressed  rank  bytes  not a matrix because
      ----  ------  --------------  ----------  ----  -----  --------------------
      b     (8,)    -               -           -     32     1-D
      w     (4, 8)  (1, 4, 8)       in          2     128
    """
    if not callable(rank):
        check_rank(rank)
    leaves, paths = jax.tree.leaves(params), leaf_paths(params)
    numbers, reasons = resolve(params, dimension_numbers)
    shapes = [np.shape(leaf) for leaf in leaves]
    missing = "compress gives no side for {path}; it has {given}."
    sides = at_paths(compress, paths, is_leaf=lambda side: side is None, missing=missing)
    for path, side in zip(paths, sides, strict=True):
        _check_side(path, side)
    specs = [
        None if number is None else _spec(path, shape, number, rank, side)
        for path, shape, number, side in zip(paths, shapes, numbers, sides, strict=True)
    ]
    num_bytes = [
        math.prod(shape) * jnp.result_type(leaf).itemsize
        for shape, leaf in zip(shapes, leaves, strict=True)
    ]
    return SpecTable(tuple(paths), tuple(shapes), tuple(specs), tuple(reasons), tuple(num_bytes))


def _check_side(path: str, side: Any) -> None:
    if side == "unsharded":
        raise ValueError(
            "compress='unsharded' is now compress=lro.unsharded_sides(params, shardings), a tree "
            "of sides."
        )
    if side is not None and side not in SIDES:
        raise ValueError(f"compress={side!r} at {path} is unknown; use one of {SIDES}.")


def _spec(
    path: str,
    shape: tuple[int, ...],
    number: Numbers,
    rank: int | float | RankOf,
    compress: str | None,
) -> MatrixSpec:
    whole = number.numbers if isinstance(number, PerHead) else number
    axes = {
        "in": _axes(whole.reduction_axis, "reduction_axis", path, shape),
        "out": _axes(whole.output_axis, "output_axis", path, shape),
    }
    if set(axes["in"]) & set(axes["out"]):
        raise ValueError(
            f"{path} of shape {shape}: reduction_axis {axes['in']} and output_axis {axes['out']} "
            "overlap; give each axis one role."
        )
    heads_axis = None
    if isinstance(number, PerHead):
        heads_axis, shape, axes = in_heads(path, shape, axes, number)
    sizes = {side: math.prod(shape[axis] for axis in axes[side]) for side in axes}
    smallest = "in" if sizes["out"] >= sizes["in"] else "out"
    side = compress if compress in axes else smallest
    other = "out" if side == "in" else "in"
    n_axes, m_axes = axes[side], axes[other]
    n, m = sizes[side], sizes[other]
    batch = tuple(axis for axis in range(len(shape)) if axis not in n_axes + m_axes)
    resolved = rank(n, m) if callable(rank) else resolve_rank(rank, n, min(n, m))
    return MatrixSpec(path, shape, batch, n_axes, m_axes, side, resolved, heads_axis)


def _axes(
    axes: int | Sequence[int], name: str, path: str, shape: tuple[int, ...]
) -> tuple[int, ...]:
    given = (axes,) if isinstance(axes, int) else tuple(axes)
    found = tuple(axis % len(shape) for axis in given if -len(shape) <= axis < len(shape))
    if not given or len(set(found)) < len(given):
        raise ValueError(
            f"{path} of shape {shape}: {name}={axes} does not name its axes; give different axes "
            f"in [0, {len(shape)}), or None for a leaf that is not a matrix."
        )
    return found

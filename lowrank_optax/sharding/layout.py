"""Where the parts of a matrix leaf, and of the state that belongs to it, are on a mesh."""

import dataclasses
from typing import Any

from jax.sharding import PartitionSpec

from lowrank_optax.core.matrices import MatrixSpec
from lowrank_optax.sharding.types import AnyMesh, axes_of, shards

Axes = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Mesh axes over which the view (*batch, m, n) of one leaf is spread.

    Attributes:
      mesh: the mesh.
      spec: the leaf's view as batch of matrices.
      batch: mesh axes of every batch axis.
      rows: mesh axes that split the m rows.
      columns: mesh axes that split the n columns.
      known: whether this is the leaf's sharding, or all that is known of it are the rows.
    """

    mesh: AnyMesh
    spec: MatrixSpec
    batch: tuple[Axes, ...]
    rows: Axes
    columns: Axes
    known: bool

    def with_rows(self, axes: Axes) -> "Layout":
        """The same with the rows split over `axes` as well, where they divide; else unchanged."""
        extra = tuple(axis for axis in axes if axis not in self._used())
        rows = self.rows + extra
        if self.spec.m % shards(self.mesh, rows):
            return self
        return dataclasses.replace(self, rows=rows)

    def by_rows(self) -> "Layout":
        """For work that mixes the columns of a row: whole rows, more of them apart.

        Where the rows do not divide, the columns are gathered.
        """
        return dataclasses.replace(self, columns=()).with_rows(self.columns)

    def partition(self, shape: tuple[int, ...], second: str | None) -> PartitionSpec:
        """Partition of an array of the state by what its axes are.

        Args:
          shape: of the array: the batch axes, then `second`, then perhaps more.
          second: "m" or "n", what the first axis after the batch can be: an axis of another size
            is not split. After "m" an axis of size n is split as the columns are.

        Returns:
          A partition; an array that does not begin with the batch axes is not split at all.
        """
        batch = len(self.batch)
        if shape[:batch] != self.spec.batch:
            return PartitionSpec()
        entries: list[Axes] = [*self.batch]
        rest = shape[batch:]
        if second == "m" and rest[:1] == (self.spec.m,):
            entries.append(self.rows)
            if rest[1:2] == (self.spec.n,):
                entries.append(self.columns)
        if second == "n" and rest[:1] == (self.spec.n,) and len(rest) > 1:
            entries.append(self.columns)
        return self._spec([*entries, *[()] * (len(shape) - len(entries))])

    def matrix(self) -> PartitionSpec:
        """Partition of the leaf as matrices (*batch, m, n)."""
        return self._spec([*self.batch, self.rows, self.columns])

    def low_rank(self) -> PartitionSpec:
        """Partition of an array (*batch, m, r)."""
        return self._spec([*self.batch, self.rows, ()], whole=True)

    def _used(self) -> set[str]:
        return {axis for axes in (*self.batch, self.rows, self.columns) for axis in axes}

    def _spec(self, entries: list[Axes], whole: bool = False) -> PartitionSpec:
        """One entry per axis; where nothing is known of an axis, the compiler's choice."""
        rows = len(self.batch)
        free = None if self.known else PartitionSpec.UNCONSTRAINED
        return PartitionSpec(
            *(
                axes or (None if i == rows or (whole and i > rows) else free)
                for i, axes in enumerate(entries)
            )
        )


def leaf_layout(mesh: AnyMesh, spec: MatrixSpec, partition: PartitionSpec | None) -> Layout:
    """The layout of a leaf.

    Args:
      mesh: the mesh.
      spec: its view as matrices.
      partition: its partition; None if it is not known, which stands for unsplit rows.
    """
    known = partition is not None
    entries: Any = partition if partition is not None else [None] * len(spec.shape)
    # Of several axes that become one, XLA can keep the outermost split.
    merged = lambda axes: axes_of(entries[axes[0]]) if axes else ()
    return Layout(
        mesh=mesh,
        spec=spec,
        batch=tuple(axes_of(entries[axis]) for axis in spec.batch_axes),
        rows=merged(spec.row_axes),
        columns=merged(spec.column_axes),
        known=known,
    )

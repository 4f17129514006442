"""Where the parts of a matrix leaf, and of the state that belongs to it, are on a mesh."""

import dataclasses
from typing import Any

from jax.sharding import PartitionSpec

from lowrank_optax.core.matrices import MatrixSpec
from lowrank_optax.linalg.devices import AnyMesh
from lowrank_optax.sharding.types import axes_of, shards

Axes = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Mesh axes over which the view (*batch, n, m) of one leaf is spread.

    Attributes:
      mesh: the mesh.
      spec: the leaf's view as batch of matrices.
      batch: mesh axes of every batch axis.
      n: mesh axes that split the compressed axis.
      m: mesh axes that split the other axis.
      known: whether this is the leaf's sharding, or all that is known of it is m.
    """

    mesh: AnyMesh
    spec: MatrixSpec
    batch: tuple[Axes, ...]
    n: Axes
    m: Axes
    known: bool

    def split_m(self, axes: Axes) -> "Layout":
        """The same with m split over `axes` as well, where that divides; else unchanged."""
        m = self.m + tuple(axis for axis in axes if axis not in self._used())
        if self.spec.m % shards(self.mesh, m):
            return self
        return dataclasses.replace(self, m=m)

    def with_n_whole(self) -> "Layout":
        """For work that mixes the compressed axis: whole there, and split more along m.

        Where m does not divide, n is gathered.
        """
        return dataclasses.replace(self, n=()).split_m(self.n)

    def partition(self, field: str, shape: tuple[int, ...]) -> PartitionSpec:
        """Partition of an array of the engine's state.

        That is of a "basis" (n × r, or r indices), "inner" (r × m) or "residual" (n × m). An axis
        of another size is not split, and an array without the batch axes is not at all.
        """
        batch = len(self.batch)
        if shape[:batch] != self.spec.batch:
            return PartitionSpec()
        rest = shape[batch:]
        entries: list[Axes] = [()] * len(rest)
        if len(rest) == 2 and field in ("basis", "residual") and rest[0] == self.spec.n:
            entries[0] = self.n
        if rest and field in ("inner", "residual") and rest[-1] == self.spec.m:
            entries[-1] = self.m
        return self._partition([*self.batch, *entries])

    def matrix(self) -> PartitionSpec:
        """Partition of the leaf as matrices (*batch, n, m)."""
        return self._partition([*self.batch, self.n, self.m])

    def low_rank(self) -> PartitionSpec:
        """Partition of an array (*batch, r, m)."""
        return self._partition([*self.batch, (), self.m], whole=True)

    def _used(self) -> set[str]:
        return {axis for axes in (*self.batch, self.n, self.m) for axis in axes}

    def _partition(self, entries: list[Axes], whole: bool = False) -> PartitionSpec:
        """One entry per axis; where nothing is known of an axis, the compiler's choice."""
        batch, last = len(self.batch), len(entries) - 1
        free = None if self.known else PartitionSpec.UNCONSTRAINED
        return PartitionSpec(
            *(
                axes or (None if i == last or (whole and i >= batch) else free)
                for i, axes in enumerate(entries)
            )
        )


def leaf_layout(mesh: AnyMesh, spec: MatrixSpec, partition: PartitionSpec | None) -> Layout:
    """The layout of a leaf; one whose partition is not known stands for an unsplit m."""
    known = partition is not None
    entries: Any = partition if partition is not None else [None] * len(spec.shape)
    # Of several axes that become one, XLA can keep the outermost split.
    merged = lambda axes: axes_of(entries[axes[0]]) if axes else ()
    return Layout(
        mesh=mesh,
        spec=spec,
        batch=tuple(axes_of(entries[axis]) for axis in spec.batch_axes),
        n=merged(spec.n_axes),
        m=merged(spec.m_axes),
        known=known,
    )

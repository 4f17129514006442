"""Where the arrays of one step of the engine are to be on a mesh."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from lowrank_optax.core.matrices import MatrixSpec, MatrixTree
from lowrank_optax.linalg.devices import AnyMesh, has_explicit, mesh_of, typed_spec
from lowrank_optax.sharding.owners import state_owners
from lowrank_optax.sharding.regions import initialise, place
from lowrank_optax.sharding.types import axes_of, shards, spec_of
from lowrank_optax.sharding.zero import zero_axes

Axes = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Mesh axes over which the view (*batch, n, m) of one leaf is spread."""

    mesh: AnyMesh
    spec: MatrixSpec
    batch: tuple[Axes, ...]  # of every batch axis
    n: Axes
    m: Axes
    known: bool  # whether this is the leaf's sharding, or all that is known of it is m

    def split_m(self, axes: Axes) -> "Layout":
        """The same with m split over `axes` as well, where that divides; else unchanged."""
        used = {axis for axes in (*self.batch, self.n, self.m) for axis in axes}
        m = self.m + tuple(axis for axis in axes if axis not in used)
        if self.spec.m % shards(self.mesh, m):
            return self
        return dataclasses.replace(self, m=m)

    def with_n_whole(self) -> "Layout":
        """For work that mixes n: split along m instead, or gathered where m does not divide."""
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

    def free(self, i: int) -> Any:
        """Entry of an axis where nothing else is said; unknown ones are the compiler's choice."""
        if self.known or (i in self._of_heads and self._may_split_heads):
            return None
        return PartitionSpec.UNCONSTRAINED

    @property
    def _of_heads(self) -> tuple[int, ...]:
        """Axes of the view that are the number and the width of heads."""
        axis, batch = self.spec.heads_axis, self.spec.batch_axes
        if axis is None:
            return ()
        return batch.index(axis), len(batch) + (axis + 1 in self.spec.m_axes)

    @property
    def _may_split_heads(self) -> bool:
        """Whether devices may hold parts of heads; not if all of them hold whole ones."""
        axis = self.spec.heads_axis
        return axis is not None and self.spec.shape[axis] % self.mesh.size != 0

    def _partition(self, entries: list[Axes], whole: bool = False) -> PartitionSpec:
        """One entry per axis; where nothing is known of an axis, the compiler's choice."""
        batch, last = len(self.batch), len(entries) - 1
        return PartitionSpec(
            *(
                axes or (None if i == last or (whole and i >= batch) else self.free(i))
                for i, axes in enumerate(entries)
            )
        )


def leaf_layout(mesh: AnyMesh, spec: MatrixSpec, partition: PartitionSpec | None) -> Layout:
    """The layout of a leaf; one whose partition is not known stands for an unsplit m."""
    entries: Any = [None] * len(spec.shape)
    if partition is not None:
        entries = _by_axis(mesh, spec, partition)
    # Of several axes that become one, XLA can keep the outermost split.
    merged = lambda axes: axes_of(entries[axes[0]]) if axes else ()
    return Layout(
        mesh=mesh,
        spec=spec,
        batch=tuple(axes_of(entries[axis]) for axis in spec.batch_axes),
        n=merged(spec.n_axes),
        m=merged(spec.m_axes),
        known=partition is not None,
    )


def split_heads(leaf: jax.Array, spec: MatrixSpec) -> jax.Array:
    """A leaf in `spec.shape`; under `Explicit` axes parts of heads are gathered before."""
    mesh, axis = mesh_of(leaf), spec.heads_axis
    if axis is not None and has_explicit(mesh):
        entries = _by_axis(mesh, spec, typed_spec(leaf))
        leaf = place(leaf, mesh, PartitionSpec(*entries[: axis + 1], *entries[axis + 2 :]))
    return spec.split_heads(leaf)


def _by_axis(mesh: Any, spec: MatrixSpec, partition: PartitionSpec) -> tuple[Any, ...]:
    """The entries of a leaf's partition for the axes of `spec.shape`."""
    entries = spec.by_axis(tuple(partition))
    axis = spec.heads_axis
    if axis is None or spec.shape[axis] % shards(mesh, axes_of(entries[axis])) == 0:
        return entries
    # Devices hold parts of heads.
    return (*entries[:axis], None, *entries[axis + 1 :])


class Placement:
    """Layouts of a tree's matrices: of the parameter, and of the work on it.

    The work is split as the parameter is, with two differences. Where a transform mixes the
    compressed axis, a split of that axis becomes a split of the other one: n·m / devices numbers
    change places instead of n·m being gathered. And `zero_axis` splits the other axis further.

    Under `Auto` mesh axes a parameter's sharding is not known here; then the compiler finds these
    placements from those of the state, and only what `zero_axis` adds has to be said.

    The work needs the axes named in `whole` in one piece, as for `Projection`; `init` makes the
    state that this places.
    """

    def __init__(self, tree: MatrixTree, whole: str, zero_axis: Any, init: Callable[[Any], Any]):
        self.init = init
        self.mesh = mesh_of(tree.leaves)
        self.tree = tree
        self.splits_m = "m" not in whole
        self.base: dict[int, Layout] = {}
        self.work: dict[int, Layout] = {}
        further = zero_axes(zero_axis, self.mesh)
        self.splits_further = bool(further)  # than follows from the parameters
        if self.mesh is None:
            return
        for i, spec in tree.matrices.items():
            base = leaf_layout(self.mesh, spec, spec_of(tree.leaves[i]))
            work = base.with_n_whole() if whole == "n" else base
            self.base[i] = base
            self.work[i] = work.split_m(further) if self.splits_m else work

    def initial_state(self, params: Any) -> Any:
        """What `init` makes of the parameters, made where it belongs."""
        return initialise(
            self.init, params, self.mesh, self.partitions, constrain=self.splits_further
        )

    def to_work(self, i: int, A: jax.Array) -> jax.Array:
        """A (*batch, n, m) where the work on it is done."""
        return self._placed(A, self.work, i, Layout.matrix)

    def to_parameter(self, i: int, step: jax.Array) -> jax.Array:
        """A matrix (*batch, n, m) where the parameter is."""
        return self._placed(step, self.base, i, Layout.matrix)

    def low_rank(self, i: int, a: jax.Array) -> jax.Array:
        """A low-rank array (*batch, r, m) where the work on it is done."""
        return self._placed(a, self.work, i, Layout.low_rank) if self.splits_m else a

    def gather(self, i: int, u: jax.Array) -> jax.Array:
        """The same with as much of m as the parameter's part has."""
        return self._placed(u, self.base, i, Layout.low_rank) if self.splits_m else u

    def low_rank_partition(self, i: int) -> PartitionSpec:
        """Where `low_rank` leaves an array; for a mesh."""
        return self.work[i].low_rank() if self.splits_m else PartitionSpec()

    def partitions(self, state: Any) -> Any:
        """A pytree of `PartitionSpec` like the engine's state, from its shapes."""
        params = self.tree.treedef.unflatten(self.tree.leaves)
        owners = state_owners(self.init, params, state)

        def partition(i: int | None, path: Any, leaf: Any) -> PartitionSpec:
            field = path[0].name
            if i is None or field not in ("basis", "inner", "residual"):
                return PartitionSpec()
            return self.work[i].partition(field, leaf.shape)

        leaves = jax.tree_util.tree_leaves_with_path(state)
        partitions = [partition(i, *leaf) for i, leaf in zip(owners, leaves, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(state), partitions)

    def settle(self, state: Any) -> Any:
        """The state where `partitions` says, if that is more than the compiler knows."""
        return place(state, self.mesh, self.partitions(state)) if self.splits_further else state

    def _placed(
        self, x: jax.Array, layouts: dict[int, Layout], i: int, partition: Any
    ) -> jax.Array:
        if self.mesh is None:
            return x
        layout = layouts[i]
        if layout.known or self.splits_further:
            return place(x, self.mesh, partition(layout))
        if layout.spec.heads_axis is None:
            return x
        return place(x, self.mesh, PartitionSpec(*map(layout.free, range(x.ndim))))

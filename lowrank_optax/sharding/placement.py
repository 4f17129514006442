"""Where the arrays of one step of the engine are to be."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from lowrank_optax.core.matrices import MatrixTree
from lowrank_optax.linalg.devices import mesh_of
from lowrank_optax.sharding.layout import Layout, leaf_layout
from lowrank_optax.sharding.owners import state_owners
from lowrank_optax.sharding.regions import initialise, place
from lowrank_optax.sharding.types import spec_of
from lowrank_optax.sharding.zero import zero_axes

FIELDS = ("basis", "inner", "residual")
"""The fields of the engine's state whose arrays are split as their matrices are."""


class Placement:
    """Layouts of a tree's matrices: of the parameter, and of the work on it.

    The work is split as the parameter is, with two differences. Where a transform mixes the
    compressed axis, a split of that axis becomes a split of the other one: n·m / devices numbers
    change places instead of n·m being gathered. And `zero_axis` splits the other axis further.

    Under `Auto` mesh axes a parameter's sharding is not known here; then the compiler finds these
    placements from those of the state, and only what `zero_axis` adds has to be said.

    Args:
      tree: the gradients or parameters.
      whole: which axes of a matrix the work needs whole, as for `Projection`.
      zero_axis: mesh axis or axes to split the other axis over; None for none.
      init: makes the state that this places.
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

    def work_partition(self, i: int) -> PartitionSpec:
        """Where `to_work` leaves a matrix; for a mesh."""
        return self.work[i].matrix()

    def low_rank_partition(self, i: int) -> PartitionSpec:
        """Where `low_rank` leaves an array; for a mesh."""
        return self.work[i].low_rank() if self.splits_m else PartitionSpec()

    def partitions(self, state: Any) -> Any:
        """A pytree of `PartitionSpec` like the engine's state, from its shapes."""
        params = self.tree.treedef.unflatten(self.tree.leaves)
        owners = state_owners(self.init, params, state)

        def partition(i: int | None, path: Any, leaf: Any) -> PartitionSpec:
            field = path[0].name
            if i is None or field not in FIELDS:
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
        if self.mesh is None or not (layouts[i].known or self.splits_further):
            return x
        return place(x, self.mesh, partition(layouts[i]))

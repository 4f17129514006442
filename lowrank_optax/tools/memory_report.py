"""How much memory an optimizer's state takes, from shapes alone."""

import dataclasses
import math
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lowrank_optax.core.spec_table import format_table
from lowrank_optax.core.trees import path_string
from lowrank_optax.linalg.devices import mesh_of, sharding_of
from lowrank_optax.sharding.owners import state_owners
from lowrank_optax.sharding.state import state_shardings


@dataclasses.dataclass(frozen=True)
class LeafMemory:
    """Bytes of optimizer state that belong to one parameter."""

    path: str  # "/"-joined
    shape: tuple[int, ...]  # of the parameter
    state_bytes: int  # that the optimizer keeps for it, each entry counted once
    device_bytes: int  # of that state on each device; all of them without a mesh
    adamw_bytes: int  # that `optax.adamw` would keep for it


@dataclasses.dataclass(frozen=True)
class MemoryReport:
    """Optimizer state per parameter and in all, by `memory_report`; prints as a table."""

    leaves: tuple[LeafMemory, ...]  # one per parameter
    shared_bytes: int  # of what belongs to no parameter: step counts, keys, hyperparameters
    shared_device_bytes: int  # of these on each device
    devices: int = 1  # of the parameters' mesh; 1 without a mesh

    @property
    def total_bytes(self) -> int:
        """All bytes of the optimizer's state."""
        return self.shared_bytes + sum(leaf.state_bytes for leaf in self.leaves)

    @property
    def device_bytes(self) -> int:
        """Bytes of the optimizer's state on each device."""
        return self.shared_device_bytes + sum(leaf.device_bytes for leaf in self.leaves)

    @property
    def replicated(self) -> tuple[str, ...]:
        """Paths of the parameters whose state every one of several devices holds whole."""
        return tuple(leaf.path for leaf in self.leaves if self._split(leaf) == "replicated")

    @property
    def adamw_bytes(self) -> int:
        """Bytes of the moments that `optax.adamw` would keep."""
        return sum(leaf.adamw_bytes for leaf in self.leaves)

    def __getitem__(self, path: str) -> LeafMemory:
        for leaf in self.leaves:
            if leaf.path == path:
                return leaf
        raise KeyError(
            f"no parameter {path!r}; the paths are {[leaf.path for leaf in self.leaves]}"
        )

    def __str__(self) -> str:
        rows = [("path", "shape", "state bytes", "AdamW bytes", "ratio", "device bytes", "split")]
        for leaf in self.leaves:
            cells = _cells(leaf.state_bytes, leaf.adamw_bytes, leaf.device_bytes)
            rows.append((leaf.path, str(leaf.shape), *cells, self._split(leaf)))
        shared, on_device = f"{self.shared_bytes:,}", f"{self.shared_device_bytes:,}"
        rows.append(("shared", "", shared, "", "", on_device, ""))
        cells = _cells(self.total_bytes, self.adamw_bytes, self.device_bytes)
        rows.append(("total", "", *cells, ""))
        return format_table(rows if self.devices > 1 else [row[:5] for row in rows])

    def _split(self, leaf: LeafMemory) -> str:
        """What part of a parameter's state is on each device."""
        if self.devices == 1 or not leaf.device_bytes:
            return ""
        if leaf.device_bytes == leaf.state_bytes:
            return "replicated"
        return f"1/{leaf.state_bytes / leaf.device_bytes:.3g}"


def _cells(state_bytes: int, adamw_bytes: int, device_bytes: int) -> tuple[str, str, str, str]:
    ratio = f"{state_bytes / adamw_bytes:.3f}" if adamw_bytes else "-"
    return f"{state_bytes:,}", f"{adamw_bytes:,}", ratio, f"{device_bytes:,}"


def memory_report(tx: optax.GradientTransformation, params: Any) -> MemoryReport:
    """Bytes of optimizer state per parameter and in all, as a table; nothing is allocated.

    Works for any optax transformation: an array of the state belongs to a parameter if it is where
    that is in a tree like the parameters. For parameters on a mesh of several devices it also says
    how much of the state is on each of them, by `state_shardings`, and where nothing is split:
    "replicated".

    Args:
      tx: the optimizer.
      params: pytree of arrays, or of `jax.ShapeDtypeStruct`. Those with a `NamedSharding` say where
        they are; others are taken to be whole on every device of the mesh.

    Raises:
      ValueError: if the parameters are on several meshes, or do not divide over theirs.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> report = lro.memory_report(lro.trion(0.02, rank=2), {"w": jnp.ones((4, 8))})
      >>> report["w"].state_bytes == 4 * (8 * 4) + 4 * 2  # momentum and indices
      True
    """
    state, mesh = _placed_state(tx, params)
    owners = state_owners(tx.init, params, state)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    # By parameter, and last what belongs to none.
    whole, on_device = [0] * (len(leaves) + 1), [0] * (len(leaves) + 1)
    for owner, leaf in zip(owners, jax.tree.leaves(state), strict=True):
        shard = leaf.shape if mesh is None else leaf.sharding.shard_shape(leaf.shape)
        place = -1 if owner is None else owner
        whole[place] += _bytes(leaf, leaf.shape)
        on_device[place] += _bytes(leaf, shard)
    memories = tuple(
        LeafMemory(
            path=path_string(path),
            shape=tuple(leaf.shape),
            state_bytes=whole[i],
            device_bytes=on_device[i],
            adamw_bytes=2 * _bytes(leaf, leaf.shape),
        )
        for i, (path, leaf) in enumerate(leaves)
    )
    return MemoryReport(memories, whole[-1], on_device[-1], 1 if mesh is None else mesh.size)


def _placed_state(tx: optax.GradientTransformation, params: Any) -> tuple[Any, Mesh | None]:
    """The state's shapes, with shardings if the parameters are on a mesh of several devices."""
    state, mesh = jax.eval_shape(tx.init, params), mesh_of(params)
    if not isinstance(mesh, Mesh) or mesh.size == 1:
        return state, None
    whole = NamedSharding(mesh, PartitionSpec())
    shardings = jax.tree.map(lambda leaf: sharding_of(leaf) or whole, params)
    placed = lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
    return jax.tree.map(placed, state, state_shardings(tx, params, shardings)), mesh


def _bytes(leaf: Any, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * leaf.dtype.itemsize

"""How much memory an optimizer's state takes, from shapes alone."""

import dataclasses
import math
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lowrank_optax.core.matrices import format_table
from lowrank_optax.core.trees import path_string
from lowrank_optax.linalg.devices import mesh_of
from lowrank_optax.sharding.owners import state_owners
from lowrank_optax.sharding.state import state_shardings


@dataclasses.dataclass(frozen=True)
class LeafMemory:
    """Bytes of optimizer state that belong to one parameter.

    Attributes:
      path: "/"-joined path of the parameter.
      shape: its shape.
      state_bytes: bytes of state that the optimizer keeps for it, each entry counted once.
      device_bytes: bytes of that state on each device; all of them without a mesh.
      adamw_bytes: bytes that `optax.adamw` would keep for it.
    """

    path: str
    shape: tuple[int, ...]
    state_bytes: int
    device_bytes: int
    adamw_bytes: int


@dataclasses.dataclass(frozen=True)
class MemoryReport:
    """Optimizer state per parameter and in all; prints as a table.

    Attributes:
      leaves: one entry per parameter.
      shared_bytes: bytes of state that belong to no parameter: step counts, keys, hyperparameters.
      shared_device_bytes: bytes of these on each device.
      devices: number of devices of the parameters' mesh; 1 without a mesh.
    """

    leaves: tuple[LeafMemory, ...]
    shared_bytes: int
    shared_device_bytes: int
    devices: int = 1

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
        rows = [("path", "shape", "state bytes", "AdamW bytes", "ratio")]
        rows += [
            (leaf.path, str(leaf.shape), *_cells(leaf.state_bytes, leaf.adamw_bytes))
            for leaf in self.leaves
        ]
        rows.append(("shared", "", f"{self.shared_bytes:,}", "", ""))
        rows.append(("total", "", *_cells(self.total_bytes, self.adamw_bytes)))
        if self.devices == 1:
            return format_table(rows)
        device_rows = [
            ("device bytes", "split"),
            *((f"{leaf.device_bytes:,}", self._split(leaf)) for leaf in self.leaves),
            (f"{self.shared_device_bytes:,}", ""),
            (f"{self.device_bytes:,}", ""),
        ]
        return format_table([row + more for row, more in zip(rows, device_rows, strict=True)])

    def _split(self, leaf: LeafMemory) -> str:
        """What part of a parameter's state is on each device."""
        if self.devices == 1 or not leaf.device_bytes:
            return ""
        if leaf.device_bytes == leaf.state_bytes:
            return "replicated"
        return f"1/{leaf.state_bytes / leaf.device_bytes:.3g}"


def _cells(state_bytes: int, adamw_bytes: int) -> tuple[str, str, str]:
    ratio = f"{state_bytes / adamw_bytes:.3f}" if adamw_bytes else "-"
    return f"{state_bytes:,}", f"{adamw_bytes:,}", ratio


def memory_report(tx: optax.GradientTransformation, params: Any) -> MemoryReport:
    """Bytes of optimizer state per parameter and in all, without allocating anything.

    Works for any optax transformation: an array of the state belongs to a parameter if it is where
    that is in a tree like the parameters. For parameters on a mesh of several devices it also says
    how much of the state is on each of them, by `state_shardings`, and where nothing is split:
    "replicated".

    Args:
      tx: the optimizer.
      params: pytree of arrays or `jax.ShapeDtypeStruct`s. Those with a `NamedSharding` say where
        they are; others are taken to be whole on every device of the mesh.

    Returns:
      A report that prints as a table.

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
    whole, on_device = [0] * len(leaves), [0] * len(leaves)
    shared = shared_on_device = 0
    for owner, leaf in zip(owners, jax.tree.leaves(state), strict=True):
        shard = leaf.shape if mesh is None else leaf.sharding.shard_shape(leaf.shape)
        if owner is None:
            shared += _bytes(leaf, leaf.shape)
            shared_on_device += _bytes(leaf, shard)
        else:
            whole[owner] += _bytes(leaf, leaf.shape)
            on_device[owner] += _bytes(leaf, shard)
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
    return MemoryReport(memories, shared, shared_on_device, 1 if mesh is None else mesh.size)


def _placed_state(tx: optax.GradientTransformation, params: Any) -> tuple[Any, Mesh | None]:
    """The state's shapes, with shardings if the parameters are on a mesh of several devices."""
    state, mesh = jax.eval_shape(tx.init, params), mesh_of(params)
    if not isinstance(mesh, Mesh) or mesh.size == 1:
        return state, None
    whole = NamedSharding(mesh, PartitionSpec())
    shardings = jax.tree.map(lambda leaf: _on_mesh(leaf) or whole, params)
    placed = lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
    return jax.tree.map(placed, state, state_shardings(tx, params, shardings)), mesh


def _on_mesh(leaf: Any) -> NamedSharding | None:
    sharding = getattr(leaf, "sharding", None)
    return sharding if isinstance(sharding, NamedSharding) else None


def _bytes(leaf: Any, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * leaf.dtype.itemsize

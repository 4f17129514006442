"""How much memory an optimizer's state takes, from shapes alone."""

import dataclasses
import math
from typing import Any

import jax
import optax

from lowrank_optax.dimension_numbers import path_string
from lowrank_optax.matrices import format_table
from lowrank_optax.owners import owner_finder


@dataclasses.dataclass(frozen=True)
class LeafMemory:
    """Bytes of optimizer state that belong to one parameter.

    Attributes:
      path: "/"-joined path of the parameter.
      shape: its shape.
      state_bytes: bytes of state that the optimizer keeps for it.
      adamw_bytes: bytes that `optax.adamw` would keep for it.
    """

    path: str
    shape: tuple[int, ...]
    state_bytes: int
    adamw_bytes: int


@dataclasses.dataclass(frozen=True)
class MemoryReport:
    """Optimizer state per parameter and in all; prints as a table.

    Attributes:
      leaves: one entry per parameter.
      shared_bytes: bytes of state that belong to no parameter: step counts, keys, hyperparameters.
    """

    leaves: tuple[LeafMemory, ...]
    shared_bytes: int

    @property
    def total_bytes(self) -> int:
        """All bytes of the optimizer's state."""
        return self.shared_bytes + sum(leaf.state_bytes for leaf in self.leaves)

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
        return format_table(rows)


def _cells(state_bytes: int, adamw_bytes: int) -> tuple[str, str, str]:
    ratio = f"{state_bytes / adamw_bytes:.3f}" if adamw_bytes else "-"
    return f"{state_bytes:,}", f"{adamw_bytes:,}", ratio


def memory_report(tx: optax.GradientTransformation, params: Any) -> MemoryReport:
    """Bytes of optimizer state per parameter and in all, without allocating anything.

    Works for any optax transformation: an array of the state belongs to the parameter whose path
    its own path contains.

    Args:
      tx: the optimizer.
      params: pytree of arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      A report that prints as a table.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> report = lro.memory_report(lro.trion(0.02, rank=2), {"w": jnp.ones((4, 8))})
      >>> report["w"].state_bytes == 4 * (8 * 4) + 4 * 2  # momentum and indices
      True
    """
    state = jax.eval_shape(tx.init, params)
    find_owner = owner_finder(params)
    owned = [0] * len(jax.tree.leaves(params))
    shared = 0
    for state_path, leaf in jax.tree_util.tree_leaves_with_path(state):
        owner = find_owner(state_path)
        if owner is None:
            shared += _bytes(leaf)
        else:
            owned[owner] += _bytes(leaf)
    leaves = tuple(
        LeafMemory(path_string(path), tuple(leaf.shape), owned[i], 2 * _bytes(leaf))
        for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(params))
    )
    return MemoryReport(leaves, shared)


def _bytes(leaf: Any) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize

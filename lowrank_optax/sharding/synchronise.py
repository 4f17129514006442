"""Data parallelism that averages low-rank arrays in place of gradients, in `jax.shard_map`.

What the devices must agree on is the step, and that is low-rank: they average the scores of the
columns and the coordinates in the subspace, and each keeps what is outside of it.
"""

from typing import Any

import jax
import optax
from jax.sharding import PartitionSpec

from lowrank_optax.core.axes import LowRankState
from lowrank_optax.linalg.devices import mean_over

CHOICES = (None, "low_rank")


def resolve_sync(sync: str | None, sync_axis: str) -> str | None:
    """The axis to average low-rank arrays over, or None if gradients come averaged."""
    if sync not in CHOICES:
        raise ValueError(f"sync={sync!r} is unknown; use one of {CHOICES}.")
    return sync_axis if sync == "low_rank" else None


def average_gradients(axis: str) -> optax.GradientTransformation:
    """Average whole gradients over a `jax.shard_map` axis: of the leaves that are no matrices."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda x: mean_over(x, axis), updates))


def local_state_specs(tx: optax.GradientTransformation, params: Any, axis: str = "data") -> Any:
    """Partitions of the state under `sync="low_rank"`, for `jax.shard_map`.

    Every device keeps its own momentum: as one global array they are stacked along the first axis,
    so that they are split over `axis`. All other state is the same everywhere.

    Args:
      tx: the optimizer.
      params: pytree of arrays, or of `jax.ShapeDtypeStruct`.
      axis: the axis that is averaged over.

    Returns:
      A pytree of `PartitionSpec` like `tx.init(params)`: for `in_specs` and `out_specs`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jax.sharding import PartitionSpec as P
      >>> import lowrank_optax as lro
      >>> mesh = jax.make_mesh((1,), ("data",))
      >>> params = {"w": jnp.ones((4, 8))}
      >>> tx = lro.scale_by_trion(rank=2, sync="low_rank")
      >>> specs = lro.local_state_specs(tx, params)
      >>> specs.residual["w"], specs.basis["w"]
      (P('data',), P())
      >>> init = jax.shard_map(tx.init, mesh=mesh, in_specs=P(), out_specs=specs)
      >>> jax.jit(init)(params).residual["w"].shape
      (4, 8)
    """

    def of_node(node: Any) -> Any:
        shared = jax.tree.map(lambda _: PartitionSpec(), node)
        if not isinstance(node, LowRankState):
            return shared
        own = jax.tree.map(lambda _: PartitionSpec(axis), node.residual)
        return shared._replace(residual=own)

    state = jax.eval_shape(tx.init, params)
    return jax.tree.map(of_node, state, is_leaf=lambda node: isinstance(node, LowRankState))

"""The state of the matrices, wherever it is in an optimizer's state."""

from typing import Any

import jax

from lowrank_optax.core.axes import LowRankState


def matrix_states(state: Any) -> tuple[LowRankState, ...]:
    """The states of this library's transformations in the state of any optax optimizer.

    One for each, in the order of `jax.tree.leaves`; () if there is none.

    Args:
      state: of a named method, a chain, or whatever is wrapped around them; or a tree like it,
        such as `state_shardings` returns.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import lowrank_optax as lro
      >>> params = {"w": jnp.ones((4, 8)), "b": jnp.ones(8)}
      >>> tx = optax.chain(optax.clip_by_global_norm(1.0), lro.trion(0.02, rank=2))
      >>> (matrices,) = lro.matrix_states(tx.init(params))
      >>> matrices.basis["w"].shape
      (2,)
    """
    is_ours = lambda node: isinstance(node, LowRankState)
    return tuple(node for node in jax.tree.leaves(state, is_leaf=is_ours) if is_ours(node))

"""The largest entries of every row, wherever the rows are."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def largest(
    scores: Float[Array, "*batch n"], count: int
) -> tuple[Float[Array, "*batch k"], Int[Array, "*batch k"]]:
    """The `count` largest entries of the last axis in descending order, and where they are.

    What `jax.lax.top_k` returns, by a sort: XLA gathers the operand of a top-k from all devices,
    even where only the axes before the last are sharded, and sorts every row where it is.

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.linalg.largest import largest
      >>> [x.tolist() for x in largest(jnp.array([1.0, 5.0, 2.0, 5.0]), 3)]
      [[5.0, 5.0, 2.0], [1, 3, 2]]
    """
    positions = jnp.broadcast_to(jnp.arange(scores.shape[-1], dtype=jnp.int32), scores.shape)
    negative, order = jax.lax.sort((-scores, positions), is_stable=True, num_keys=1)
    return -negative[..., :count], order[..., :count]

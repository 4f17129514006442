"""Averages over the devices of a `jax.shard_map`."""

import jax
from jaxtyping import Array, Float


def mean_over(x: Float[Array, "*shape"], axis: str | None) -> Float[Array, "*shape"]:
    """The mean of x over the devices along an axis of `jax.shard_map`; x itself for None.

    Raises:
      ValueError: if this is not the inside of a `jax.shard_map` over that axis.

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.linalg.averages import mean_over
      >>> mean_over(jnp.ones(2), None).tolist()
      [1.0, 1.0]
    """
    if axis is None:
        return x
    try:
        return jax.lax.pmean(x, axis)
    except NameError as error:
        raise ValueError(
            f"sync='low_rank' averages over the devices along the axis {axis!r}, and there is no "
            f"such axis here: call update inside jax.shard_map over a mesh with the axis {axis!r}, "
            "with every device's own gradient, or name another sync_axis."
        ) from error

"""Cutting one axis of an array into blocks, and joining them again."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32


def split_blocks(x: Array, axis: int, count: int) -> Array:
    """Cut an axis of length n into (count, ⌈n / count⌉), filled up with zeros."""
    length = -(-x.shape[axis] // count)
    missing = count * length - x.shape[axis]
    if missing:
        x = jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])
    return x.reshape(*x.shape[:axis], count, length, *x.shape[axis + 1 :])


def join_blocks(blocks: Array, axis: int, size: int) -> Array:
    """The inverse of `split_blocks`."""
    return jax.lax.slice_in_dim(flatten(blocks, axis), 0, size, axis=axis)


def flatten(pairs: Array, axis: int) -> Array:
    """Two neighbouring axes, this one and the next, as one."""
    count, length = pairs.shape[axis : axis + 2]
    return pairs.reshape(*pairs.shape[:axis], count * length, *pairs.shape[axis + 2 :])


def along(axis: int, ndim: int, values: Sequence[int]) -> Int32[Array, "..."]:
    """Numbers along one axis of so many, to be broadcast over the others."""
    return jnp.array(values, jnp.int32).reshape(len(values), *[1] * (ndim - axis - 1))

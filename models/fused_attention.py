"""Causal attention as one kernel that keeps no scores: cuDNN's, through `jax.nn`.

What stands in the way of that kernel is JAX's and cuDNN's: half precision, an NVIDIA GPU since
Ampere, narrow heads, and queries, keys and values that are split alike.
"""

import math
from typing import Any, Literal

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from models.partitioning import BATCH_AXES

HALF = ("bfloat16", "float16")
MAX_HEAD_DIM = 128
MIN_TIME = 64  # a row of scores that is shorter is no burden
OLDEST = (8, 0)  # compute capability


def is_fusible(query: Float[Array, "batch time heads head_dim"], device: Any) -> bool:
    """Whether cuDNN attends for these queries on this device.

    Args:
      query: of every position; keys and values are as long, as wide and of its type.
      device: of JAX.
    """
    if not device.device_kind.startswith("NVIDIA"):
        return False
    capability = tuple(int(part) for part in device.compute_capability.split("."))
    time, head_dim = query.shape[1], query.shape[3]
    return (
        capability >= OLDEST
        and query.dtype.name in HALF
        and head_dim % 8 == 0
        and head_dim <= MAX_HEAD_DIM
        and time >= MIN_TIME
        and time % 2 == 0  # with a mask the backward pass takes no odd ones
    )


def fused_attention(
    query: Float[Array, "batch time heads head_dim"],
    key: Float[Array, "batch time kv_heads head_dim"],
    value: Float[Array, "batch time kv_heads head_dim"],
    segments: Int[Array, "batch time"] | None,
    implementation: Literal["cudnn", "xla"],
) -> Float[Array, "batch time heads head_dim"]:
    """Exact softmax attention of every position to itself and the earlier ones of its segment.

    Args:
      query: of every position.
      key: likewise.
      value: likewise.
      segments: the number of each position's text; ``None``: a row is one text.
      implementation: as ``jax.nn.dot_product_attention`` takes it.
    """
    batch, heads = _split_axes(key.shape[0], key.shape[2])
    query, key, value = (_placed(x, batch, None, heads, None) for x in (query, key, value))
    visible: Bool[Array, "batch 1 time time"] | None = None
    if segments is not None:
        visible = (segments[:, :, None] == segments[:, None, :])[:, None]
        visible = _placed(visible, batch, None, None, None)
    return jax.nn.dot_product_attention(
        query, key, value, mask=visible, is_causal=True, implementation=implementation
    )


def _split_axes(batch: int, kv_heads: int) -> tuple[tuple[str, ...] | None, str | None]:
    """The axes of the current mesh that rows and heads are split over, where they divide them.

    cuDNN's kernel refuses queries that are split otherwise than the keys, which XLA may choose
    where there are fewer heads of these than devices.
    """
    sizes = jax.sharding.get_abstract_mesh().shape
    rows = tuple(axis for axis in BATCH_AXES if axis in sizes)
    tensor = sizes.get("tensor", 1)
    return (
        (rows or None) if batch % math.prod(sizes[axis] for axis in rows) == 0 else None,
        "tensor" if tensor > 1 and kv_heads % tensor == 0 else None,
    )


def _placed(x: Array, *axes: Any) -> Array:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:  # inside `jax.shard_map` arrays are where they are
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))

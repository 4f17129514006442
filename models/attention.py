"""Rotary positions and exact causal grouped-query attention, as functions of arrays."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from models.fused_attention import fused_attention, is_fusible
from models.rope_scaling import RopeScaling

MIN_QUERY_CHUNK = 64
MAX_QUERY_CHUNKS = 4  # each is compiled separately


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    """The dtype in which to sum, exponentiate and take roots of values of ``dtype``."""
    return jnp.promote_types(dtype, jnp.float32)


def rotary_tables(
    positions: Int[Array, "*batch time"],
    head_dim: int,
    theta: float,
    scaling: RopeScaling | None = None,
) -> tuple[Float[Array, "*batch time half"], Float[Array, "*batch time half"]]:
    """Cosines and sines of the rotary angles ``position * theta ** (-2k / head_dim)``, float32.

    Args:
      positions: integer positions, (time,) or, where they differ from row to row, (batch, time).
      head_dim: even width of one head; k runs over its half.
      theta: base of the wavelengths.
      scaling: how the frequencies ``theta ** (-2k / head_dim)`` are changed; ``None``: not at all.

    Reference: RoFormer (arXiv 2104.09864), Eq. 15.
    """
    exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    frequencies = theta**-exponents
    if scaling is not None:
        frequencies = scaling.scale(frequencies)
    angles = positions.astype(jnp.float32)[..., None] * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def apply_rotary(
    x: Float[Array, "batch time heads head_dim"],
    cosines: Float[Array, "*#batch time half"],
    sines: Float[Array, "*#batch time half"],
) -> Float[Array, "batch time heads head_dim"]:
    """Turn the plane of features (k, k + head_dim / 2) by its angle, in float32 at least.

    This pairing is Hugging Face's "rotate_half"; RoFormer pairs neighbouring features, which is
    the same up to a permutation of the query and key projections' outputs.
    """
    first, second = jnp.split(x.astype(at_least_float32(x.dtype)), 2, axis=-1)
    cosines, sines = cosines[..., None, :], sines[..., None, :]
    turned = [first * cosines - second * sines, second * cosines + first * sines]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def causal_attention(
    query: Float[Array, "batch time heads head_dim"],
    key: Float[Array, "batch time kv_heads head_dim"],
    value: Float[Array, "batch time kv_heads head_dim"],
    segments: Int[Array, "batch time"] | None = None,
) -> Float[Array, "batch time heads head_dim"]:
    """Exact softmax attention of every position to itself and the earlier ones.

    Query head h reads key/value head ``h // (heads // kv_heads)`` (arXiv 2305.13245). Where cuDNN
    has no kernel for it, queries go in chunks that only see the keys up to their own end, which
    saves up to half of the scores.

    Args:
      query: of every position.
      key: likewise.
      value: likewise.
      segments: where several texts share a row, the number of each position's text: it attends to
        positions of its own text only. ``None``: a row is one text.
    """
    if is_fusible(query, jax.devices()[0]):
        return fused_attention(query, key, value, segments, "cudnn")
    return chunked_attention(query, key, value, segments)


def chunked_attention(
    query: Float[Array, "batch time heads head_dim"],
    key: Float[Array, "batch time kv_heads head_dim"],
    value: Float[Array, "batch time kv_heads head_dim"],
    segments: Int[Array, "batch time"] | None = None,
) -> Float[Array, "batch time heads head_dim"]:
    """``causal_attention`` in products and softmaxes, for any backend, shape and type."""
    batch, time, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    query = query.reshape(batch, time, kv_heads, heads // kv_heads, head_dim)
    query = query.transpose(0, 2, 3, 1, 4)
    key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
    chunk = max(MIN_QUERY_CHUNK, -(-time // MAX_QUERY_CHUNKS))
    attended = [
        _attend(query[..., start : start + chunk, :], key, value, start, segments)
        for start in range(0, time, chunk)
    ]
    return (
        jnp.concatenate(attended, axis=3)
        .transpose(0, 3, 1, 2, 4)
        .reshape(batch, time, heads, head_dim)
    )


def cached_attention(
    query: Float[Array, "batch heads head_dim"],
    key: Float[Array, "batch kv_heads capacity head_dim"],
    value: Float[Array, "batch kv_heads capacity head_dim"],
    positions: Int[Array, " batch"],
) -> Float[Array, "batch heads head_dim"]:
    """Exact softmax attention of one position a row to itself and the earlier ones.

    Args:
      query: of the token at ``positions``.
      key: of every position of a row in its slot; later slots may hold anything finite.
      value: likewise.
      positions: of the queries, one a row.
    """
    batch, heads, head_dim = query.shape
    kv_heads, capacity = key.shape[1:3]
    query = query.reshape(batch, kv_heads, heads // kv_heads, 1, head_dim)
    visible = (jnp.arange(capacity) <= positions[:, None])[:, None, None, None, :]
    return _attend_where(visible, query, key, value).reshape(batch, heads, head_dim)


def segment_positions(segments: Int[Array, "batch time"]) -> Int[Array, "batch time"]:
    """Every position counted from the start of its segment, a run of equal numbers.

    Example:
      >>> segment_positions(jnp.array([[1, 1, 1, 2, 2, 0]])).tolist()
      [[0, 1, 2, 0, 1, 0]]
    """
    positions = jnp.arange(segments.shape[1])
    begins = jnp.diff(segments, axis=1, prepend=segments[:, :1]) != 0
    starts = jax.lax.cummax(jnp.where(begins, positions, 0), axis=1)
    return positions - starts


def _attend(
    query: Array, key: Array, value: Array, start: int, segments: Array | None = None
) -> Array:
    """Attention of the queries (batch, kv_heads, group, rows, head_dim) at ``start`` onwards."""
    stop = start + query.shape[3]
    visible = jnp.arange(start, stop)[:, None] >= jnp.arange(stop)
    if segments is not None:
        same = segments[:, start:stop, None] == segments[:, None, :stop]
        visible = visible & same[:, None, None]
    return _attend_where(visible, query, key[:, :, :stop], value[:, :, :stop])


def _attend_where(
    visible: Bool[Array, "*#batch rows time"],
    query: Float[Array, "batch kv_heads group rows head_dim"],
    key: Float[Array, "batch kv_heads time head_dim"],
    value: Float[Array, "batch kv_heads time head_dim"],
) -> Float[Array, "batch kv_heads group rows head_dim"]:
    batch, kv_heads, group, rows, head_dim = query.shape
    time = key.shape[2]
    # The query heads of a group share their keys: as rows of one matrix they are one product.
    flat = query.reshape(batch, kv_heads, group * rows, head_dim)
    scores = jnp.einsum(
        "bkqd,bktd->bkqt", flat, key, preferred_element_type=at_least_float32(query.dtype)
    ).reshape(batch, kv_heads, group, rows, time)
    scores = jnp.where(visible, scores * head_dim**-0.5, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    weights = weights.reshape(batch, kv_heads, group * rows, time)
    return jnp.einsum("bkqt,bktd->bkqd", weights, value).reshape(query.shape)

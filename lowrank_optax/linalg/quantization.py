"""Block-wise 8- and 4-bit quantisation along one axis; zero is a code, so that zeros stay zeros.

A block is stored as integers q and one number s, its scale: entries come back as s q.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int8, Int32, PRNGKeyArray, Shaped, UInt8

from lowrank_optax.linalg.precision import at_least_float32

BITS = {"int8": 8, "int4": 4}
"""What an array can be stored as, and the bits of an entry."""

# The codes are the two's complement −2ᵇ⁻¹ … 2ᵇ⁻¹ − 1, whose lowest one is given to the entry of
# largest magnitude: the scale has the sign that this takes. So the whole range is used, and a power
# of two divides that entry, which makes a block of equal entries exact. Codes from a block's least
# to its largest entry, with zero moved onto one of them, take one more array: at the same bytes
# their error for normal entries is 0.61 % of the root mean square where it is 0.64 % here (8 bits),
# and 10.7 % for 10.6 % (4 bits). Codes symmetric to zero err by 0.65 % and 11.7 %.


class Quantized(NamedTuple):
    """A quantised array: arrays only, so that it can live in an optimizer's state."""

    codes: Int8[Array, "*shape"] | UInt8[Array, "*packed"]
    """int8 in the array's own shape; or bytes of two 4-bit codes each, half as many along the axis
    (rounded up in every block): the first half of a block in the low bits, the other in the high.
    """
    scale: Float[Array, "*blocks"]
    """What a code is multiplied by, of either sign, one number for every block of the axis."""


@functools.partial(jax.jit, static_argnames=("storage", "axis", "block_size"))
def quantize(
    x: Shaped[Array, "*shape"],
    storage: str = "int8",
    *,
    axis: int = -1,
    block_size: int = 256,
    key: PRNGKeyArray | None = None,
) -> Quantized:
    """Round an array to 8 or 4 bits an entry, scaled for each block of one axis.

    The axis is cut into ⌈n / block_size⌉ blocks of equal length, but for the last, which may be
    shorter, each with a scale in at least float32. Zeros come back as zeros, and a block of equal
    entries comes back exactly; the other entries err by at most half a scale, which is at most
    1 / (2ᵇ⁻¹ − 1) of the block's largest magnitude. A block whose entries are all below 1.6e-36
    becomes zero; one with a non-finite entry comes back non-finite.

    Args:
      x: real floating array.
      storage: "int8" or "int4".
      axis: axis along which blocks run. Every other axis can be sharded without communication, and
        so can this one where its shards hold whole blocks.
      block_size: largest number of entries in a block.
      key: rounds stochastically, so that the expectation over keys is x (to 1/32768 of a scale); by
        default rounds to nearest.

    Raises:
      TypeError: x is not real floating.
      ValueError: x has no such axis or it is empty, or another argument is not among its choices.

    Reference:
      arXiv 2110.02861, section 2.1; differs in linear codes.

    Example:
      >>> import jax.numpy as jnp
      >>> stored = quantize(jnp.array([0.0, -3.0, 1.0, 0.1]), "int4")
      >>> stored.codes.shape, stored.scale.tolist()
      ((2,), [0.375])
      >>> dequantize(stored, size=4).tolist()
      [0.0, -3.0, 1.125, 0.0]
    """
    x = jnp.asarray(x)
    if storage not in BITS:
        raise ValueError(f'cannot quantise to {storage!r}: choose "int8" or "int4".')
    if block_size < 1:
        raise ValueError(f"block_size={block_size} must be at least 1.")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"only real floating arrays can be quantised, not {x.dtype.name}.")
    if not -x.ndim <= axis < x.ndim or x.shape[axis] == 0:
        raise ValueError(f"nothing to quantise along axis {axis} of shape {x.shape}.")
    bits, axis, count = BITS[storage], axis % x.ndim, -(-x.shape[axis] // block_size)
    blocks = at_least_float32(split_blocks(x, axis, count))
    scale = _scale(blocks, bits, axis + 1)
    position = blocks * jnp.where(scale == 0, 0, 1 / scale)
    codes = jnp.clip(_round(position, key, axis + 1), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    codes = codes.astype(jnp.int8)
    if bits == 4:
        codes = _flatten(_pack(codes, axis + 1), axis)
    else:
        codes = join_blocks(codes, axis, x.shape[axis])
    return Quantized(codes, scale.squeeze(axis + 1))


@functools.partial(jax.jit, static_argnames=("size", "axis", "dtype"))
def dequantize(
    stored: Quantized, *, size: int, axis: int = -1, dtype: DTypeLike | None = None
) -> Float[Array, "*shape"]:
    """The array that `quantize` stored, up to its rounding.

    Args:
      stored: what `quantize` returned; it tells the bits and the blocks itself.
      size: length of the original axis, which packed codes alone do not tell.
      axis: as given to `quantize`.
      dtype: floating dtype of the result; None for the scales'.

    Raises:
      ValueError: the stored shapes do not belong to this size and axis.

    Example:
      >>> import jax.numpy as jnp
      >>> stored = quantize(jnp.full((2, 5), 0.1), "int4", axis=0)
      >>> dequantize(stored, size=2, axis=0)[0, 0] == jnp.float32(0.1)
      Array(True, dtype=bool)
    """
    codes, scale = stored
    if not -codes.ndim <= axis < codes.ndim:
        raise ValueError(f"codes of shape {codes.shape} have no axis {axis}.")
    name, count = "int8" if codes.dtype == jnp.int8 else "int4", scale.shape[axis]
    length = -(-size // count)
    need = size if name == "int8" else count * ((length + 1) // 2)
    if codes.shape[axis] != need:
        raise ValueError(
            f"{name} codes of shape {codes.shape} with scales of shape {scale.shape} do not hold "
            f"{size} entries along axis {axis}, which take {need}: pass the size and axis of the "
            "array that was quantised."
        )
    axis %= codes.ndim
    blocks = split_blocks(codes, axis, count)
    if name == "int4":
        blocks = jax.lax.slice_in_dim(_unpack(blocks, axis + 1), 0, length, axis=axis + 1)
    x = blocks.astype(scale.dtype) * jnp.expand_dims(scale, axis + 1)
    return join_blocks(x.astype(dtype or scale.dtype), axis, size)


def quantized_zeros(
    shape: tuple[int, ...],
    storage: str = "int8",
    *,
    axis: int = -1,
    block_size: int = 256,
    dtype: DTypeLike = jnp.float32,
) -> Quantized:
    """What `quantize` stores for an array of zeros, which is zeros.

    Computed, XLA would fold them at great length at compile time.

    Args:
      shape: shape of the array.
      storage, axis, block_size: as for `quantize`.
      dtype: dtype of the array; float64 keeps its scales in float64.

    Raises:
      ValueError: an option is not among its choices.

    Example:
      >>> zeros = quantized_zeros((4, 512), "int4")
      >>> zeros.codes.shape, zeros.scale.shape
      ((4, 256), (4, 2))
    """
    store = functools.partial(quantize, storage=storage, axis=axis, block_size=block_size)
    stored = jax.eval_shape(store, jax.ShapeDtypeStruct(shape, dtype))
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), stored)


def _scale(blocks: Array, bits: int, axis: int) -> Array:
    """The smallest scale for which no entry of a block lies outside the codes."""
    zero = jnp.zeros((), blocks.dtype)
    # One reduction of both: two read the array twice, and a sum that is quantised is then stored.
    larger = functools.partial(jax.tree.map, jnp.maximum)
    ends = jax.lax.reduce((blocks, -blocks), (zero, zero), larger, (axis,))
    top, bottom = (jnp.expand_dims(end, axis) for end in ends)
    lowest = 2 ** (bits - 1)
    scale = jnp.maximum(jnp.maximum(top, bottom) / lowest, jnp.minimum(top, bottom) / (lowest - 1))
    # The reciprocal of what is not a normal number may not be finite.
    scale = jnp.where(scale < jnp.finfo(scale.dtype).tiny, 0, scale)
    return jnp.where(top > bottom, -scale, scale)


def _round(position: Array, key: PRNGKeyArray | None, axis: int) -> Array:
    if key is None:
        return jnp.round(position)
    # 14 bits: the positions of codes, which are rounded to 2^-16, never leave them.
    noise = (_random_halves(key, position.shape, axis) & (2**14 - 1)).astype(position.dtype)
    return jnp.floor(position + (noise + 0.5) / 2**14)


def _random_halves(key: PRNGKeyArray, shape: tuple[int, ...], axis: int) -> Array:
    """16 random bits an entry, two entries along the axis from every number that is drawn."""
    length = shape[axis]
    words = jax.random.bits(key, (*shape[:axis], (length + 1) // 2, *shape[axis + 1 :]), "uint32")
    pairs = jnp.expand_dims(words, axis) >> _along(axis, len(shape) + 1, 0, 16).astype(jnp.uint32)
    return join_blocks(pairs, axis, length)


def split_blocks(x: Array, axis: int, count: int) -> Array:
    """Cut an axis of length n into (count, ⌈n / count⌉), filled up with zeros."""
    length = -(-x.shape[axis] // count)
    missing = count * length - x.shape[axis]
    if missing:
        x = jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])
    return x.reshape(*x.shape[:axis], count, length, *x.shape[axis + 1 :])


def join_blocks(blocks: Array, axis: int, size: int) -> Array:
    """The inverse of `split_blocks`."""
    return jax.lax.slice_in_dim(_flatten(blocks, axis), 0, size, axis=axis)


def _flatten(pairs: Array, axis: int) -> Array:
    """Two neighbouring axes, this one and the next, as one."""
    count, length = pairs.shape[axis : axis + 2]
    return pairs.reshape(*pairs.shape[:axis], count * length, *pairs.shape[axis + 2 :])


def _pack(codes: Int8[Array, "*shape"], axis: int) -> UInt8[Array, "*packed"]:
    halves = split_blocks(codes.astype(jnp.int32) & 15, axis, 2)
    # A sum and not a bitwise or of two slices, which XLA's CPU compiler does not vectorise.
    return jnp.sum(halves * _along(axis, halves.ndim, 1, 16), axis, dtype=jnp.int32).astype("uint8")


def _unpack(packed: UInt8[Array, "*packed"], axis: int) -> Int32[Array, "*shape"]:
    """The codes, and one more where their number is odd."""
    pairs = jnp.expand_dims(packed.astype(jnp.int32), axis)
    # To the upper end of 32 bits and back with the sign.
    return _flatten((pairs << _along(axis, pairs.ndim, 28, 24)) >> 28, axis)


def _along(axis: int, ndim: int, low: int, high: int) -> Int32[Array, "..."]:
    return jnp.array([low, high], jnp.int32).reshape(2, *[1] * (ndim - axis - 1))

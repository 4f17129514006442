"""Block-wise 8-bit quantisation with the dynamic map, for numbers of many orders of magnitude.

A code is a tiny decimal floating-point number whose exponent has a variable length. Count codes
from zero: the leading one bit of the count tells the decade, and the bits below it the place in
[0.1, 1] of that decade. The largest decade so has the most places, and seven decades fit in a byte.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, Shaped, UInt8

from lowrank_optax.linalg.precision import at_least_float32

DECADES = 7


class Quantized8(NamedTuple):
    """A quantised array: arrays only, so that it can live in an optimizer's state."""

    codes: UInt8[Array, "*batch n"]
    """Indices into `dynamic_map`, in the array's own shape."""
    largest: Float[Array, "*batch blocks"]
    """The entry of largest magnitude of every block, with its sign, float32 or float64."""


def dynamic_map(signed: bool) -> Float[Array, "256"]:
    """The 256 numbers that a block can hold, as multiples of its entry of largest magnitude.

    Zero, one, and in each decade [10⁻ᵉ⁻¹, 10⁻ᵉ], e = 0 … 6, the midpoints of 2⁷⁻ᵉ equal parts;
    or, signed, the midpoints of 2⁶⁻ᵉ equal parts and their negatives.

    Args:
      signed: whether the map has negative numbers.

    Returns:
      The numbers in ascending order, shape (256,), float32.

    Reference:
      arXiv 2110.02861, sections 1.3 and 2.

    Example:
      >>> table = dynamic_map(signed=False)
      >>> table.shape, float(table[0]), float(table[255])
      ((256,), 0.0, 1.0)
      >>> float(dynamic_map(signed=True)[127])
      0.0
    """
    return _decode(jnp.arange(256, dtype=jnp.uint8), signed, jnp.float32)


def quantize_dynamic(
    x: Shaped[Array, "*batch n"], *, signed: bool, block_size: int = 256
) -> Quantized8:
    """Round x to the nearest code of the dynamic map, scaled for each block of the last axis.

    The last axis is cut into ⌈n / block_size⌉ blocks of equal length, but for the last, which may
    be shorter. Zeros and every block's entry of largest magnitude come back exactly. Without
    signs, a positive entry never becomes zero: it gets the smallest code at least, so that what is
    divided by it stays bounded. A block whose entries all lie below the smallest normal number
    becomes zero; one with a non-finite entry comes back non-finite.

    Args:
      x: real floating array; blocks run along the last axis.
      signed: whether to use the map with negative numbers; if not, negative entries become zero.
      block_size: largest number of entries in a block.

    Returns:
      Codes of x's shape, and a scale for each block in float32, or float64 for a float64 array.

    Raises:
      TypeError: x is not real floating.
      ValueError: x is a scalar or its last axis is empty, or block_size is below 1.

    Reference:
      arXiv 2110.02861, section 2.
      Differs from the published code in scaling by the largest entry with its sign and not by its
      magnitude (the map holds 1 and not −1, and would miss a negative largest entry by 0.7 %); in
      never rounding a positive entry to zero without signs; and in blocks that do not cross rows,
      so that leading axes can be sharded and batched.

    Example:
      >>> import jax.numpy as jnp
      >>> stored = quantize_dynamic(jnp.array([0.0, -3.0, 1.0, 1e-3]), signed=True)
      >>> stored.codes.dtype.name, stored.largest.tolist()
      ('uint8', [-3.0])
      >>> [round(value, 5) for value in dequantize_dynamic(stored, signed=True).tolist()]
      [-0.0, -3.0, 0.99609, 0.00114]
    """
    x = jnp.asarray(x)
    if block_size < 1:
        raise ValueError(f"block_size={block_size} must be at least 1.")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"only real floating arrays can be quantised, not {x.dtype.name}.")
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"nothing to quantise along the last axis of shape {x.shape}.")
    return _quantize(x, signed, -(-x.shape[-1] // block_size))


def dequantize_dynamic(stored: Quantized8, *, signed: bool) -> Float[Array, "*batch n"]:
    """The array that `quantize_dynamic` stored, up to its rounding.

    Args:
      stored: what `quantize_dynamic` returned; its shapes tell the blocks.
      signed: as given to `quantize_dynamic`.

    Returns:
      The array, shape (..., n), in the dtype of the scales.

    Example:
      >>> import jax.numpy as jnp
      >>> dequantize_dynamic(quantize_dynamic(jnp.full(3, 0.3), signed=False), signed=False)
      Array([0.3, 0.3, 0.3], dtype=float32)
    """
    return _dequantize(stored, signed)


def requantize_dynamic(
    x: Float[Array, "*batch n"], stored: Quantized8, *, signed: bool
) -> Quantized8:
    """Quantise x with the blocks that `stored` has.

    Args:
      x: array of the shape of `stored.codes`.
      stored: a quantised array of that shape.
      signed: as for `quantize_dynamic`.

    Example:
      >>> import jax.numpy as jnp
      >>> stored = quantize_dynamic(jnp.ones(6), signed=False, block_size=3)
      >>> requantize_dynamic(jnp.arange(6.0), stored, signed=False).largest.tolist()
      [2.0, 5.0]
    """
    return _quantize(x, signed, stored.largest.shape[-1])


@functools.partial(jax.jit, static_argnums=(1, 2))
def _quantize(x: Array, signed: bool, count: int) -> Quantized8:
    blocks = _split(at_least_float32(x), count)
    top, bottom = jnp.max(blocks, -1), jnp.min(blocks, -1)
    largest = jnp.where(top >= -bottom, top, bottom) if signed else jnp.maximum(top, 0)
    # Their reciprocal is not finite.
    largest = jnp.where(jnp.abs(largest) < jnp.finfo(blocks.dtype).tiny, 0, largest)
    codes = _encode(_ratio(blocks, largest[..., None]), signed)
    return Quantized8(_join(codes, x.shape[-1]), largest)


@functools.partial(jax.jit, static_argnums=1)
def _dequantize(stored: Quantized8, signed: bool) -> Array:
    largest = stored.largest[..., None]
    codes = _split(stored.codes, largest.shape[-2])
    return _join(_decode(codes, signed, largest.dtype) * largest, stored.codes.shape[-1])


def _split(x: Array, count: int) -> Array:
    """(..., n) to (..., count, ⌈n / count⌉), filled up with zeros."""
    length = -(-x.shape[-1] // count)
    missing = count * length - x.shape[-1]
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x
    return padded.reshape(*x.shape[:-1], count, length)


def _join(blocks: Array, size: int) -> Array:
    """The inverse of `_split`."""
    *batch, count, length = blocks.shape
    return blocks.reshape(*batch, count * length)[..., :size]


def _ratio(x: Array, largest: Array) -> Array:
    """x / largest, and 0 where largest is 0."""
    # XLA may multiply by the reciprocal, which is flushed to zero for divisors above 8e37.
    shrink = jnp.where(jnp.abs(largest) > 1, 1 / 16, 1).astype(x.dtype)
    return jnp.where(largest == 0, 0, x * shrink / jnp.where(largest == 0, 1, largest * shrink))


def _encode(y: Float[Array, "*shape"], signed: bool) -> UInt8[Array, "*shape"]:
    """Index of the number of the map nearest to y."""
    if not signed:
        rank = _rank(y, _bits(signed))
        return jnp.where(y > 0, jnp.maximum(rank, 1), 0).astype(jnp.uint8)
    rank = _rank(jnp.abs(y), _bits(signed))
    # There is no -1.
    return (127 + jnp.where(y < 0, -jnp.minimum(rank, 127), rank)).astype(jnp.uint8)


def _decode(codes: UInt8[Array, "*shape"], signed: bool, dtype: DTypeLike) -> Array:
    """The numbers of the map at the indices."""
    if not signed:
        return _magnitude(codes.astype(jnp.int32), _bits(signed), dtype)
    rank = codes.astype(jnp.int32) - 127
    magnitude = _magnitude(jnp.abs(rank), _bits(signed), dtype)
    return jnp.where(rank < 0, -magnitude, magnitude)


def _bits(signed: bool) -> int:
    """Places of the largest decade, as a power of two."""
    return DECADES - 1 if signed else DECADES


# A map and its search in arithmetic, and not as a table: a binary search takes eight dependent
# gathers per entry, seven times as long on a CPU, and a gather from a table cannot be sharded
# under explicit axes without being told how.


def _magnitude(rank: Int[Array, "*shape"], bits: int, dtype: DTypeLike) -> Array:
    """The rank-th of the map's non-negative numbers, counting from zero."""
    count = rank + (bits - DECADES + 1)
    exponent = 31 - jax.lax.clz(jnp.maximum(count, 1))
    place = (count.astype(dtype) + 0.5) / jnp.left_shift(1, exponent).astype(dtype) - 1
    value = (0.1 + 0.9 * place) / _power_of_ten(bits - exponent, dtype)
    return jnp.where(rank == 0, 0, jnp.where(count == 2 ** (bits + 1), 1, value)).astype(dtype)


def _rank(y: Float[Array, "*shape"], bits: int) -> Int[Array, "*shape"]:
    """Rank of the non-negative number nearest to y."""
    lowest = bits - DECADES + 1
    limits = [_between(exponent, bits) for exponent in range(lowest, bits + 1)]
    exponent = jnp.full(y.shape, lowest, jnp.int32)
    for limit in limits[:-1]:
        exponent += (y > limit).astype(jnp.int32)
    places = jnp.left_shift(1, exponent)
    place = (y * _power_of_ten(bits - exponent, y.dtype) - 0.1) * (places.astype(y.dtype) / 0.9)
    count = places + jnp.clip(jnp.floor(place), 0, places - 1).astype(jnp.int32)
    count = jnp.where(y > limits[-1], 2 ** (bits + 1), count)
    smallest = (0.1 + 0.45 / 2**lowest) * 10.0 ** (1 - DECADES)
    return jnp.where(y > smallest / 2, count - lowest, 0)


def _between(exponent: int, bits: int) -> float:
    """Midpoint of the last number with this exponent and the first with the next."""
    last = (1 - 0.45 / 2**exponent) * 10.0 ** (exponent - bits)
    above = (0.1 + 0.45 / 2 ** (exponent + 1)) * 10.0 ** (exponent + 1 - bits)
    return (last + (1 if exponent == bits else above)) / 2


def _power_of_ten(exponent: Int[Array, "*shape"], dtype: DTypeLike) -> Array:
    """10 to the power of an exponent below 8, exactly."""
    factors = [jnp.where(exponent & bit, 10.0**bit, 1).astype(dtype) for bit in (1, 2, 4)]
    return factors[0] * factors[1] * factors[2]

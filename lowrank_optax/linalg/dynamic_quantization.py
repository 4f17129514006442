"""Block-wise 8-bit quantisation with the dynamic map, for numbers of many orders of magnitude."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, Shaped, UInt8

from lowrank_optax.linalg.arguments import require_count
from lowrank_optax.linalg.blocks import join_blocks, split_blocks
from lowrank_optax.linalg.precision import at_least_float32

# A code is a tiny decimal floating-point number whose exponent has a variable length. Count codes
# from zero: the leading one bit of the count tells the decade, and the bits below it the place in
# [0.1, 1] of that decade. The map so holds zero, one, and in each decade [10⁻ᵉ⁻¹, 10⁻ᵉ], e = 0 … 6,
# the midpoints of 2⁷⁻ᵉ equal parts; or, signed, the midpoints of 2⁶⁻ᵉ and their negatives.
DECADES = 7


class Quantized8(NamedTuple):
    """A quantised array: arrays only, so that it can live in an optimizer's state."""

    codes: UInt8[Array, "*batch n"]
    """Places among the 256 numbers of the map in ascending order, in the array's own shape."""
    largest: Float[Array, "*batch blocks"]
    """The entry of largest magnitude of every block, with its sign, float32 or float64."""


@functools.partial(jax.jit, static_argnames=("signed", "block_size"))
def quantize_dynamic(
    x: Shaped[Array, "*batch n"], *, signed: bool, block_size: int = 256
) -> Quantized8:
    """Round x to the nearest code, scaled for each of ⌈n / block_size⌉ blocks of the last axis.

    Codes have x's shape, in uint8; a block's scale is float32, or float64 for a float64 array.
    Zeros and every block's entry of largest magnitude come back exactly; without signs, negative
    entries become zero, and a positive one never does: it gets the smallest code at least, so that
    what is divided by it stays bounded. A block whose entries all lie below the smallest normal
    number becomes zero; one with a non-finite entry comes back non-finite.

    Differs from the published code of arXiv 2110.02861 in scaling by the largest entry with its
    sign and not by its magnitude (the map holds 1 and not −1, and would miss a negative largest
    entry by 0.7 %); in never rounding a positive entry to zero without signs; and in blocks that do
    not cross rows, so that leading axes can be sharded and batched.

    >>> stored = quantize_dynamic(jnp.array([0.0, -3.0, 1.0, 1e-3]), signed=True)
    >>> [round(value, 5) for value in dequantize_dynamic(stored, signed=True).tolist()]
    [-0.0, -3.0, 0.99609, 0.00114]
    """
    x = jnp.asarray(x)
    require_count("block_size", block_size)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"only real floating arrays can be quantised, not {x.dtype.name}.")
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"nothing to quantise along the last axis of shape {x.shape}.")
    blocks = split_blocks(at_least_float32(x), x.ndim - 1, -(-x.shape[-1] // block_size))
    top, bottom = jnp.max(blocks, -1), jnp.min(blocks, -1)
    largest = jnp.where(top >= -bottom, top, bottom) if signed else jnp.maximum(top, 0)
    # Their reciprocal is not finite.
    largest = jnp.where(jnp.abs(largest) < jnp.finfo(blocks.dtype).tiny, 0, largest)
    codes = _encode(_ratio(blocks, largest[..., None]), signed)
    return Quantized8(join_blocks(codes, x.ndim - 1, x.shape[-1]), largest)


@functools.partial(jax.jit, static_argnames="signed")
def dequantize_dynamic(stored: Quantized8, *, signed: bool) -> Float[Array, "*batch n"]:
    """The array that `quantize_dynamic` stored, up to its rounding, in the dtype of the scales."""
    codes, largest = stored.codes, stored.largest[..., None]
    blocks = split_blocks(codes, codes.ndim - 1, largest.shape[-2])
    values = _decode(blocks, signed, largest.dtype) * largest
    return join_blocks(values, codes.ndim - 1, codes.shape[-1])


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

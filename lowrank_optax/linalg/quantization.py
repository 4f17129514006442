"""Block-wise 8- and 4-bit quantisation along the last axis; leading axes stay shardable."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray, Shaped, UInt8

BITS = (4, 8)
SCHEMES = ("minmax", "absmax")


class Quantized(NamedTuple):
    """A quantised array: arrays only, so that it can live in an optimizer's state."""

    codes: UInt8[Array, "*batch packed"]
    """One code a byte, or two 4-bit codes a byte, the even position in the low half."""
    maximum: Float[Array, "*batch blocks"]
    """Largest entry ("minmax") or largest magnitude ("absmax") of every block."""
    minimum: Float[Array, "*batch blocks"] | None
    """Smallest entry of every block; None for "absmax", whose range is symmetric."""


def quantize(
    x: Shaped[Array, "*batch n"],
    *,
    bits: int = 8,
    block_size: int = 256,
    scheme: str = "minmax",
    key: PRNGKeyArray | None = None,
) -> Quantized:
    """Returns x in 8 or 4 bits an entry, with a range for each block of the last axis.

    "minmax" spreads the codes 0 .. 2^bits - 1 evenly from a block's smallest to its largest
    entry; "absmax" spreads 2^bits - 1 codes evenly over [-a, a], a the largest magnitude, so
    that zero is exact. A block whose entries are all equal comes back exactly under either.
    The last block may be short. A non-finite entry makes its own block non-finite.

    Args:
        x: real floating array; blocks run along the last axis.
        bits: 8 or 4.
        block_size: entries per block, at least 1.
        scheme: "minmax" or "absmax".
        key: rounds stochastically, so that the expectation over keys is x; by default
            rounds to nearest.

    Returns:
        codes of shape (..., n) or, for 4 bits, (..., ceil(n / 2)); the blocks' ranges of shape
        (..., ceil(n / block_size)), in float32, or float64 for a float64 array.

    Raises:
        TypeError: x is not real floating.
        ValueError: x is a scalar or its last axis is empty, or another argument is not
            among its choices.

    Reference: Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (arXiv
    2110.02861), with linear instead of dynamic codes.

    >>> import jax.numpy as jnp
    >>> x = jnp.linspace(-1.0, 1.0, 300)
    >>> stored = quantize(x)
    >>> stored.codes.shape, stored.maximum.shape
    ((300,), (2,))
    >>> bool(jnp.allclose(dequantize(stored, size=300), x, atol=1 / 255))
    True
    """
    x = jnp.asarray(x)
    _check_options(bits, block_size, scheme)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"only real floating arrays can be quantised, not {x.dtype.name}")
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"nothing to quantise along the last axis of shape {x.shape}")
    return _encode(x, key, bits=bits, block_size=block_size, scheme=scheme)


def dequantize(
    quantized: Quantized,
    *,
    size: int,
    bits: int = 8,
    block_size: int = 256,
    scheme: str = "minmax",
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "*batch {size}"]:
    """Returns the array that :func:`quantize` stored, up to its rounding.

    Args:
        quantized: what `quantize` returned.
        size: length n of the original last axis, which packed codes alone do not tell.
        bits: as given to `quantize`.
        block_size: as given to `quantize`.
        scheme: as given to `quantize`.
        dtype: floating dtype of the result.

    Returns:
        The array, shape (..., n).

    Raises:
        ValueError: the stored shapes do not belong to these options.

    >>> import jax.numpy as jnp
    >>> stored = quantize(jnp.full((2, 5), 0.1), bits=4, scheme="absmax")
    >>> dequantize(stored, size=5, bits=4, scheme="absmax")[0, 0] == jnp.float32(0.1)
    Array(True, dtype=bool)
    """
    _check_options(bits, block_size, scheme)
    _check_stored(quantized, size, bits, block_size, scheme)
    return _decode(quantized, size=size, bits=bits, block_size=block_size, dtype=jnp.dtype(dtype))


def quantized_bytes(
    shape: tuple[int, ...],
    *,
    bits: int = 8,
    block_size: int = 256,
    scheme: str = "minmax",
    dtype: DTypeLike = jnp.float32,
) -> int:
    """Returns the bytes that :func:`quantize` needs for an array of this shape.

    Args:
        shape: shape of the array, with at least one axis.
        bits: 8 or 4.
        block_size: entries per block.
        scheme: "minmax" or "absmax".
        dtype: dtype of the array; float64 keeps its ranges in float64.

    Returns:
        Bytes of codes and ranges together.

    Raises:
        ValueError: an option is not among its choices.

    >>> quantized_bytes((4, 512))  # 4·512 codes + 4 rows · 2 blocks · 2 float32 numbers
    2112
    """
    _check_options(bits, block_size, scheme)
    rows, size = math.prod(shape[:-1]), shape[-1]
    numbers = 2 if scheme == "minmax" else 1
    width = jnp.promote_types(dtype, jnp.float32).itemsize
    return rows * (-(-size * bits // 8) + -(-size // block_size) * numbers * width)


@functools.partial(jax.jit, static_argnames=("bits", "block_size", "scheme"))
def _encode(
    x: Array, key: PRNGKeyArray | None, *, bits: int, block_size: int, scheme: str
) -> Quantized:
    size = x.shape[-1]
    blocks = _split(x.astype(jnp.promote_types(x.dtype, jnp.float32)), block_size)
    levels = _levels(bits, scheme)
    if scheme == "minmax":
        minimum, maximum = jnp.min(blocks, -1), jnp.max(blocks, -1)
        position = levels * _ratio(blocks, maximum[..., None], minimum[..., None])
    else:
        minimum, maximum = None, jnp.max(jnp.abs(blocks), -1)
        largest = maximum[..., None]
        position = levels // 2 * (_ratio(blocks, largest, jnp.zeros_like(largest)) + 1)
    codes = _join(_round(position, key), size)
    codes = jnp.clip(codes, 0, levels).astype(jnp.uint8)
    return Quantized(_pack(codes) if bits == 4 else codes, maximum, minimum)


@functools.partial(jax.jit, static_argnames=("size", "bits", "block_size", "dtype"))
def _decode(
    quantized: Quantized, *, size: int, bits: int, block_size: int, dtype: jnp.dtype
) -> Array:
    codes = _unpack(quantized.codes)[..., :size] if bits == 4 else quantized.codes
    maximum = quantized.maximum[..., None]
    blocks = _split(codes.astype(maximum.dtype), block_size)
    levels = _levels(bits, "absmax" if quantized.minimum is None else "minmax")
    if quantized.minimum is None:
        signed = blocks - levels // 2
        fraction = signed / (levels // 2)
        # XLA multiplies by a rounded reciprocal instead, so that 7 / 7 is not 1.
        fraction = jnp.where(jnp.abs(signed) == levels // 2, jnp.sign(signed), fraction)
        values = fraction * maximum
    else:
        minimum = quantized.minimum[..., None]
        # The range is added in two halves: it may overflow where the sum does not.
        step = blocks / levels * (maximum / 2 - minimum / 2)
        values = minimum + step + step
    return _join(values, size).astype(dtype)


def _check_options(bits: int, block_size: int, scheme: str) -> None:
    if bits not in BITS:
        raise ValueError(f"cannot quantise to {bits!r} bits: choose 8 or 4")
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, not {block_size}")
    if scheme not in SCHEMES:
        raise ValueError(f'unknown scheme {scheme!r}: choose "minmax" or "absmax"')


def _check_stored(stored: Quantized, size: int, bits: int, block_size: int, scheme: str) -> None:
    packed, blocks = -(-size * bits // 8), -(-size // block_size)
    if stored.codes.shape[-1] != packed or stored.maximum.shape[-1] != blocks:
        raise ValueError(
            f"codes {stored.codes.shape} and ranges {stored.maximum.shape} do not hold {size} "
            f"entries of {bits} bits in blocks of {block_size}, which take {packed} bytes and "
            f"{blocks} blocks: pass the size, bits and block_size they were quantised with"
        )
    if (stored.minimum is None) != (scheme == "absmax"):
        other = "absmax" if scheme == "minmax" else "minmax"
        raise ValueError(f'the array was quantised with scheme="{other}", not "{scheme}"')


def _levels(bits: int, scheme: str) -> int:
    """The largest code: an even number for the symmetric scheme, so that zero has a code."""
    return 2**bits - (1 if scheme == "minmax" else 2)


def _split(x: Array, block_size: int) -> Array:
    """(..., n) to (..., blocks, block); the last block is filled with its own last entry."""
    size = x.shape[-1]
    block = min(block_size, size)
    padding = [(0, 0)] * (x.ndim - 1) + [(0, -size % block)]
    padded = jnp.pad(x, padding, mode="edge") if size % block else x
    return padded.reshape(*x.shape[:-1], padded.shape[-1] // block, block)


def _join(blocks: Array, size: int) -> Array:
    """The inverse of :func:`_split`."""
    *batch, count, block = blocks.shape
    return blocks.reshape(*batch, count * block)[..., :size]


def _ratio(x: Array, high: Array, low: Array) -> Array:
    """(x - low) / (high - low), and 0 where high equals low."""
    # The difference of huge entries overflows, and XLA may form the reciprocal of a divisor,
    # which is flushed to zero for anything above 8e37.
    shrink = jnp.where(jnp.maximum(jnp.abs(high), jnp.abs(low)) > 1, 1 / 16, 1).astype(x.dtype)
    low = low * shrink
    whole = high * shrink - low
    return jnp.where(whole == 0, 0, (x * shrink - low) / jnp.where(whole == 0, 1, whole))


def _round(position: Array, key: PRNGKeyArray | None) -> Array:
    if key is None:
        return jnp.round(position)
    below = jnp.floor(position)
    up = jax.random.uniform(key, position.shape, position.dtype) < position - below
    return below + up.astype(position.dtype)


def _pack(codes: Array) -> Array:
    odd = codes.shape[-1] % 2
    padded = jnp.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, odd)])
    return padded[..., ::2] | (padded[..., 1::2] << 4)


def _unpack(packed: Array) -> Array:
    pairs = jnp.stack([packed & 15, packed >> 4], axis=-1)
    return pairs.reshape(*packed.shape[:-1], 2 * packed.shape[-1])

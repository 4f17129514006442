"""Codes of four, two bits or one, several in a byte."""

import jax.numpy as jnp
from jaxtyping import Array, Int8, Int32, UInt8

from lowrank_optax.linalg.blocks import along, flatten, split_blocks


def bytes_of(length: int, bits: int) -> int:
    """What the codes of a block take."""
    return -(-length * bits // 8)


def packed_bits(length: int, size: int) -> int:
    """The bits of a code in a block of so many bytes: the most that it has room for."""
    return next((bits for bits in (4, 2, 1) if bytes_of(length, bits) == size), 4)


def pack(codes: Int8[Array, "*shape"], axis: int, bits: int) -> UInt8[Array, "*packed"]:
    """Bytes, the first part of each block in their lowest bits; one bit is for −1 and 1."""
    codes = codes.astype(jnp.int32)
    # 1 and −1 as 0 and −1.
    codes = codes >> 1 if bits == 1 else codes
    parts = split_blocks(codes & (2**bits - 1), axis, 8 // bits)
    # A sum and not a bitwise or of slices, which XLA's CPU compiler does not vectorise.
    places = along(axis, parts.ndim, [2**shift for shift in range(0, 8, bits)])
    return jnp.sum(parts * places, axis, dtype=jnp.int32).astype("uint8")


def unpack(packed: UInt8[Array, "*packed"], axis: int, bits: int) -> Int32[Array, "*shape"]:
    """The codes, and some more where their number is no multiple of those in a byte."""
    parts = jnp.expand_dims(packed.astype(jnp.int32), axis)
    # To the upper end of 32 bits and back with the sign.
    shifts = along(axis, parts.ndim, [32 - bits - shift for shift in range(0, 8, bits)])
    codes = flatten((parts << shifts) >> (32 - bits), axis)
    return 2 * codes + 1 if bits == 1 else codes

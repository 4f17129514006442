"""Block-wise quantisation to 8, 4, 2 bits or to signs along one axis.

A block is stored as integers q and one number s, its scale: entries come back as s q. Zero is a
code, so that zeros stay zeros, of all but signs.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int8, PRNGKeyArray, Shaped, UInt8

from lowrank_optax.linalg.arguments import require_count
from lowrank_optax.linalg.blocks import flatten, join_blocks, split_blocks
from lowrank_optax.linalg.codes import BITS, nearest_codes
from lowrank_optax.linalg.packing import bytes_of, pack, packed_bits, unpack
from lowrank_optax.linalg.precision import at_least_float32


class Quantized(NamedTuple):
    """A quantised array: arrays only, so that it can live in an optimizer's state."""

    codes: Int8[Array, "*shape"] | UInt8[Array, "*packed"]
    """int8 in the array's own shape; or bytes of two, four or eight codes each, so many fewer along
    the axis (rounded up in every block): the first part of a block in the lowest bits, the last in
    the highest. Where more bits a code take no more bytes, they are used.
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
    """Round an array to 8, 4, 2 bits or 1 bit an entry, scaled for each block of one axis.

    The axis is cut into ⌈n / block_size⌉ blocks of equal length, but for the last, which may be
    shorter, each with a scale in at least float32. Zeros come back as zeros, and a block of equal
    entries comes back exactly; the other entries err by at most half a scale, which is at most
    1 / (2ᵇ⁻¹ − 1) of the block's largest magnitude. A block whose entries are all below 1.6e-36
    becomes zero; one with a non-finite entry comes back non-finite.

    "int2" rounded to nearest and "sign" are different: entries far above the block's root mean
    square are clipped, and the scale is that of least squares, so that what comes back is
    orthogonal to its error, and equal entries come back up to the rounding of a sum. A zero among
    more than four signs comes back as the scale, which leaves it out. A block whose magnitudes add
    up to more than the largest number comes back non-finite.

    Args:
      x: real floating array.
      storage: "int8", "int4", "int2" or "sign".
      axis: axis along which blocks run. Every other axis can be sharded without communication, and
        so can this one where its shards hold whole blocks.
      block_size: largest number of entries in a block.
      key: rounds stochastically, so that the expectation over keys is x (to 1/32768 of a scale); by
        default rounds to nearest.

    Raises:
      TypeError: x is not real floating, or block_size no int.
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
    _check_storage(storage)
    require_count("block_size", block_size)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"only real floating arrays can be quantised, not {x.dtype.name}.")
    if not -x.ndim <= axis < x.ndim or x.shape[axis] == 0:
        raise ValueError(f"nothing to quantise along axis {axis} of shape {x.shape}.")
    if storage == "sign" and key is not None:
        raise ValueError("signs are not rounded at random: leave out the key.")
    axis, count = axis % x.ndim, -(-x.shape[axis] // block_size)
    blocks = at_least_float32(split_blocks(x, axis, count))
    codes, scale = nearest_codes(blocks, storage, key, axis + 1)
    codes = codes.astype(jnp.int8)
    if storage == "int8":
        codes = join_blocks(codes, axis, x.shape[axis])
    else:
        length = codes.shape[axis + 1]
        bits = packed_bits(length, bytes_of(length, BITS[storage]))
        codes = flatten(pack(codes, axis + 1, bits), axis)
    return Quantized(codes, scale.squeeze(axis + 1))


@functools.partial(jax.jit, static_argnames=("size", "axis", "dtype", "storage"))
def dequantize(
    stored: Quantized,
    *,
    size: int,
    axis: int = -1,
    dtype: DTypeLike | None = None,
    storage: str | None = None,
) -> Float[Array, "*shape"]:
    """The array that `quantize` stored, up to its rounding.

    Args:
      stored: what `quantize` returned; with the size it tells the bits and the blocks itself.
      size: length of the original axis, which packed codes alone do not tell.
      axis: as given to `quantize`.
      dtype: floating dtype of the result; None for the scales'.
      storage: as given to `quantize`, to have it checked; None for what has these bytes.

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
    count = scale.shape[axis]
    length = -(-size // count)
    if storage is None:
        is_packed, size_of_block = codes.dtype != jnp.int8, codes.shape[axis] // count
    else:
        _check_storage(storage)
        is_packed, size_of_block = storage != "int8", bytes_of(length, BITS[storage])
    bits = packed_bits(length, size_of_block) if is_packed else 8
    need = count * bytes_of(length, bits) if is_packed else size
    if codes.shape[axis] != need or is_packed != (codes.dtype != jnp.int8):
        raise ValueError(
            f"{codes.dtype.name} codes of shape {codes.shape} with scales of shape {scale.shape} "
            f"do not hold {size} entries of {bits} bits along axis {axis}, which take {need}: pass "
            "the size, axis and storage of the array that was quantised."
        )
    axis %= codes.ndim
    blocks = split_blocks(codes, axis, count)
    if bits < 8:
        blocks = unpack(blocks, axis + 1, bits)
        blocks = jax.lax.slice_in_dim(blocks, 0, length, axis=axis + 1)
    x = blocks.astype(scale.dtype) * jnp.expand_dims(scale, axis + 1)
    return join_blocks(x.astype(dtype or scale.dtype), axis, size)


def _check_storage(storage: str) -> None:
    if storage not in BITS:
        raise ValueError(f"cannot quantise to {storage!r}: choose one of {', '.join(BITS)}.")


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

"""The integers and the scale of a block: which numbers of a few bits are nearest to it."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from lowrank_optax.linalg.blocks import along, join_blocks

BITS = {"int8": 8, "int4": 4, "int2": 2, "sign": 1}
"""What an array can be stored as, and the bits of an entry."""

# The codes are the two's complement −2ᵇ⁻¹ … 2ᵇ⁻¹ − 1, whose lowest one is given to the entry of
# largest magnitude: the scale has the sign that this takes. So the whole range is used, and a power
# of two divides that entry, which makes a block of equal entries exact. Codes from a block's least
# to its largest entry, with zero moved onto one of them, take one more array: at the same bytes
# their error for normal entries is 0.61 % of the root mean square where it is 0.64 % here (8 bits),
# and 10.7 % for 10.6 % (4 bits). Codes symmetric to zero err by 0.65 % and 11.7 %.
#
# Of four codes the largest entry must not set the scale: normal entries would err by 72 %. They are
# a root mean square apart, what lies outside is clipped, and the scale is then that of least
# squares for the codes that this gives: 38 %. Of signs it is the mean magnitude: 60 %. What is
# rounded at random must not be clipped, so that there the largest entry sets it after all.


def nearest_codes(
    blocks: Array, storage: str, key: PRNGKeyArray | None, axis: int
) -> tuple[Array, Array]:
    """Integers as floats, and the scale of each block that they are multiplied by.

    Args:
      blocks: floating array in at least float32.
      storage: a key of `BITS`.
      key: rounds stochastically; None to nearest.
      axis: along which each block runs.
    """
    if storage == "sign":
        return _signs(blocks, axis)
    if storage == "int2" and key is None:
        return _two_bits(blocks, axis)
    return _with_room_for_all(blocks, BITS[storage], key, axis)


def _with_room_for_all(
    blocks: Array, bits: int, key: PRNGKeyArray | None, axis: int
) -> tuple[Array, Array]:
    """Integers as floats that leave no entry outside, and the scale that they are multiplied by."""
    scale = _scale(blocks, bits, axis)
    position = blocks * jnp.where(scale == 0, 0, 1 / scale)
    lowest = 2 ** (bits - 1)
    return jnp.clip(_round(position, key, axis), -lowest, lowest - 1), scale


def _two_bits(blocks: Array, axis: int) -> tuple[Array, Array]:
    """The codes −2 … 1, a root mean square of normal entries apart, and their best scale."""
    top, bottom, total = _reduce((blocks, -blocks, jnp.abs(blocks)), "max max sum", axis)
    step = math.sqrt(math.pi / 2) * total / blocks.shape[axis]
    step = jnp.where(top > bottom, -step, step)
    position = blocks * jnp.where(jnp.abs(step) < jnp.finfo(step.dtype).tiny, 0, 1 / step)
    # Comparisons and not `round` and `clip`, which XLA's CPU compiler does not compute twice: it
    # would store the codes for the reduction.
    one = jnp.ones((), blocks.dtype)
    above = jnp.where(position >= 0.5, one, 0)
    codes = above - jnp.where(position < -0.5, one, 0) - jnp.where(position < -1.5, one, 0)
    products, squares = _reduce((codes * blocks, codes * codes), "sum sum", axis)
    scale = products / jnp.where(squares == 0, 1, squares)
    # A step that is not finite has no codes: the block must not come back as zeros.
    return codes, jnp.where(jnp.isfinite(step), scale, step)


def _signs(blocks: Array, axis: int) -> tuple[Array, Array]:
    """Signs, and the mean magnitude of what is not zero."""
    codes = jnp.sign(blocks)
    total, number = _reduce((jnp.abs(blocks), jnp.abs(codes)), "sum sum", axis)
    return codes, total / jnp.maximum(number, 1)


def _scale(blocks: Array, bits: int, axis: int) -> Array:
    """The smallest scale for which no entry of a block lies outside the codes."""
    top, bottom = _reduce((blocks, -blocks), "max max", axis)
    lowest = 2 ** (bits - 1)
    scale = jnp.maximum(jnp.maximum(top, bottom) / lowest, jnp.minimum(top, bottom) / (lowest - 1))
    # The reciprocal of what is not a normal number may not be finite.
    scale = jnp.where(scale < jnp.finfo(scale.dtype).tiny, 0, scale)
    return jnp.where(top > bottom, -scale, scale)


def _reduce(arrays: Sequence[Array], operations: str, axis: int) -> list[Array]:
    """Maxima and sums of several arrays of magnitudes in one pass: two would read them twice."""
    functions = [{"max": jnp.maximum, "sum": jnp.add}[name] for name in operations.split()]
    zeros = [jnp.zeros((), x.dtype) for x in arrays]

    def combine(some: Sequence[Array], others: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(f(*pair) for f, *pair in zip(functions, some, others, strict=True))

    reduced = jax.lax.reduce(tuple(arrays), tuple(zeros), combine, (axis,))
    return [jnp.expand_dims(x, axis) for x in reduced]


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
    pairs = jnp.expand_dims(words, axis) >> along(axis, len(shape) + 1, [0, 16]).astype(jnp.uint32)
    return join_blocks(pairs, axis, length)

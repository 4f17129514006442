"""Columns of the orthonormal DCT basis, generated from their indices and never stored."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

from lowrank_optax.linalg.products import multiply_rows

KINDS = ("II", "III")


def dct_columns(
    n: int, indices: Int[Array, "*batch r"], dtype: DTypeLike = jnp.float32, kind: str = "II"
) -> Float[Array, "*batch {n} r"]:
    """Returns the chosen columns of the orthonormal DCT basis of size n.

    Column k of the DCT-II basis is ``q_k[j] = c_k cos(π (2j + 1) k / 2n)`` with
    ``c_0 = √(1/n)`` and ``c_k = √(2/n)``. The phase ``(2j + 1) k`` is reduced modulo 4n as an
    integer, so the entries are as exact as the dtype allows at any n below 2^28, where phases
    in floating point lose digits in proportion to n.

    Args:
        n: length of the basis vectors, at least 1.
        indices: which columns, ``0 <= k < n``; leading axes are batch axes.
        dtype: floating dtype of the result; half precision is computed in float32.
        kind: "II" for the columns q_k; "III" for the columns of the transposed matrix,
            ``b_k[j] = c_j cos(π (2k + 1) j / 2n)``, the basis of the inverse transform.

    Raises:
        ValueError: n is below 1, or kind is neither "II" nor "III".
        TypeError: dtype is not a real floating dtype, or indices are not integers.

    Reference: FFT-based Dynamic Subspace Selection (arXiv 2505.17967).

    >>> import jax.numpy as jnp
    >>> columns = dct_columns(8, jnp.array([0, 3]))
    >>> columns.shape
    (8, 2)
    >>> bool(jnp.allclose(columns.T @ columns, jnp.eye(2), atol=1e-6))
    True
    """
    if n < 1:
        raise ValueError(f"the DCT needs a length of at least 1, not n = {n}")
    if kind not in KINDS:
        raise ValueError(f'unknown DCT kind {kind!r}: choose "II" or "III"')
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"a DCT basis is real: dtype {dtype.name} is not a floating dtype")
    indices = jnp.asarray(indices)
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise TypeError(f"column indices must be integers, not {indices.dtype.name}")
    return _columns(indices, n=n, dtype=dtype, kind=kind)


def dct_matrix(n: int, dtype: DTypeLike = jnp.float32) -> Float[Array, "{n} {n}"]:
    """Returns the orthonormal DCT-II matrix Q, so that ``x @ Q`` is the DCT-II of x's rows.

    Column k is the basis vector q_k of :func:`dct_columns`, whose arguments and errors these are.

    >>> import jax.numpy as jnp
    >>> q = dct_matrix(5)
    >>> bool(jnp.allclose(q @ q.T, jnp.eye(5), atol=1e-6))
    True
    """
    return dct_columns(n, jnp.arange(n), dtype)


@functools.partial(jax.jit, static_argnames=("n", "dtype", "kind"))
def _columns(indices: Array, *, n: int, dtype: jnp.dtype, kind: str) -> Array:
    column = indices.astype(jnp.uint32)[..., None, :]
    row = jnp.arange(n, dtype=jnp.uint32)[:, None]
    position, frequency = (row, column) if kind == "II" else (column, row)
    computing = jnp.promote_types(dtype, jnp.float32)
    phase = _product_modulo(2 * position + 1, frequency, factor_below=n, modulus=4 * n)
    scale = jnp.where(frequency == 0, math.sqrt(1 / n), math.sqrt(2 / n)).astype(computing)
    return (scale * _cosine(phase, n, computing)).astype(dtype)


def _product_modulo(a: Array, b: Array, *, factor_below: int, modulus: int) -> Array:
    """a·b mod modulus in uint32, for a < modulus / 2 and b < factor_below, without overflow.

    Horner's rule over the base-B digits of b keeps every intermediate below
    modulus·B + (modulus / 2)·B; up to n ≈ 26 000 one or two digits suffice.
    """
    bits = max(1, ((2**32 - 1) // (3 * modulus // 2)).bit_length() - 1)
    digits = max(1, -(-(factor_below - 1).bit_length() // bits))
    remainder = jnp.zeros(jnp.broadcast_shapes(a.shape, b.shape), jnp.uint32)
    for digit in reversed(range(digits)):
        low = (b >> (digit * bits)) & (2**bits - 1)
        remainder = ((remainder << bits) + a * low) % modulus
    return remainder


def _cosine(phase: Array, n: int, dtype: jnp.dtype) -> Array:
    """cos(π phase / 2n) for integer 0 <= phase < 4n, folded into the first quadrant."""
    phase = jnp.minimum(phase, 4 * n - phase).astype(jnp.int32)
    folded = jnp.minimum(phase, 2 * n - phase)

    def tabulated(folded: Array) -> Array:
        # Measured on a CPU: 17 times faster than n·r cosines, and rounded from float64.
        quadrant = [math.cos(math.pi * p / (2 * n)) for p in range(n)] + [0.0]
        # Under explicit mesh axes the result is sharded as the positions are.
        sharding = jax.typeof(folded).sharding
        place = None if sharding.mesh.empty else sharding
        table = jnp.array(quadrant, dtype)
        return table.at[folded].get(mode="promise_in_bounds", out_sharding=place)

    def computed(folded: Array) -> Array:
        cosine = jnp.cos(folded.astype(dtype) * (math.pi / (2 * n)))
        return jnp.where(folded == n, 0, cosine).astype(dtype)

    # By reasoning, not measured: gathers are slow on TPUs, cosines are not.
    cosine = jax.lax.platform_dependent(folded, tpu=computed, default=tabulated)
    return jnp.where(phase > n, -cosine, cosine).astype(dtype)


def multiply_basis(
    kind: str, x: Float[Array, "*batch n m"], dtype: DTypeLike, precision: Any = None
) -> Float[Array, "*batch n m"]:
    """Q x for kind "II" and Qᵀ x, the DCT-II, for "III", with Q generated in the graph."""
    n = x.shape[-2]
    basis = dct_columns(n, jnp.arange(n), x.dtype, kind)
    return multiply_rows(basis, x, precision).astype(dtype)

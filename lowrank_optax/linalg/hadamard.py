"""The orthonormal Walsh–Hadamard transform in Sylvester's order, for powers of two."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int, Shaped

from lowrank_optax.linalg.precision import wide_dtype
from lowrank_optax.linalg.products import multiply_rows


def is_power_of_two(n: int) -> bool:
    """Whether n is 1, 2, 4, 8, …

    >>> [n for n in range(-1, 9) if is_power_of_two(n)]
    [1, 2, 4, 8]
    """
    return n > 0 and n & (n - 1) == 0


def orthogonal_hadamard(
    x: Shaped[Array, "*shape"], axis: int = -1, *, dtype: DTypeLike | None = None
) -> Float[Array, "*shape"]:
    """Returns the orthonormal Walsh–Hadamard transform of x along one axis.

    ``X_k = n^(-1/2) Σ_j (−1)^popcount(j & k) x_j``, by two products with matrices of about √n:
    4 passes over the array. The map is orthogonal and symmetric, so it is its own inverse.

    Args:
        x: floating array; the transformed axis has a length n that is a power of two. Half
            precision is computed in float32.
        axis: the axis to transform; fastest for the second-to-last, -2.
        dtype: of the result; by default x's.

    Returns:
        The coefficients, with x's shape.

    Raises:
        TypeError: x or dtype is not real floating.
        ValueError: n is not a power of two.

    >>> import jax.numpy as jnp
    >>> orthogonal_hadamard(jnp.array([1.0, 0.0, 0.0, 1.0])).tolist()
    [1.0, 0.0, 0.0, 1.0]
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"the Walsh–Hadamard transform takes real floating arrays, not {x.dtype.name} of "
            f"shape {x.shape}: convert it first, e.g. x.astype(jnp.float32)"
        )
    dtype = jnp.dtype(x.dtype if dtype is None else dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"the transform is real: dtype {dtype.name} is not a floating dtype")
    _check_length(x.shape[axis])
    return _transform(x, axis=axis, dtype=dtype)


@functools.partial(jax.jit, static_argnames=("axis", "dtype"))
def _transform(x: Array, *, axis: int, dtype: DTypeLike) -> Array:
    """With n = n1·n2 the matrix is a Kronecker product, so two products with small ones do."""
    moved = x[:, None] if x.ndim == 1 else jnp.moveaxis(x, axis, -2)
    *batch, n, m = moved.shape
    n1 = 1 << n.bit_length() // 2
    n2 = n // n1
    y = moved.astype(wide_dtype(jnp.promote_types(x.dtype, dtype)))
    y = multiply_rows(_signs(n1, 1.0, y.dtype), y.reshape(*batch, n1, n2 * m))
    y = multiply_rows(_signs(n2, math.sqrt(1 / n), y.dtype), y.reshape(*batch, n1, n2, m))
    y = y.reshape(moved.shape).astype(dtype)
    return y[:, 0] if x.ndim == 1 else jnp.moveaxis(y, -2, axis)


def _signs(n: int, scale: float, dtype: DTypeLike) -> Float[Array, "{n} {n}"]:
    """The Walsh–Hadamard matrix, ± scale."""
    signs = np.ones((1, 1))
    while len(signs) < n:
        signs = np.block([[signs, signs], [signs, -signs]])
    return jnp.asarray(signs * scale, dtype)


def hadamard_columns(
    n: int, indices: Int[Array, "*batch r"], dtype: DTypeLike = jnp.float32
) -> Float[Array, "*batch {n} r"]:
    """Returns the chosen columns of the orthonormal Walsh–Hadamard basis of size n.

    Entry j of column k is ``n^(-1/2) (−1)^popcount(j & k)``.

    Args:
        n: length of the basis vectors, a power of two.
        indices: which columns, ``0 <= k < n``; leading axes are batch axes.
        dtype: floating dtype of the result.

    Returns:
        The columns, shape (..., n, r).

    Raises:
        ValueError: n is not a power of two.

    >>> import jax.numpy as jnp
    >>> hadamard_columns(4, jnp.array([0, 3])).tolist()
    [[0.5, 0.5], [0.5, -0.5], [0.5, -0.5], [0.5, 0.5]]
    """
    _check_length(n)
    rows = jnp.arange(n, dtype=jnp.int32)[:, None]
    common = jax.lax.population_count(rows & indices.astype(jnp.int32)[..., None, :])
    scale = jnp.asarray(math.sqrt(1 / n), dtype)
    return jnp.where(common % 2 == 0, scale, -scale)


def _check_length(n: int) -> None:
    if not is_power_of_two(n):
        raise ValueError(
            f"the Walsh–Hadamard transform needs a length that is a power of two, not n = {n}: "
            "use the DCT, which takes any n"
        )

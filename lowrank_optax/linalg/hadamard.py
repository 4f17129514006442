"""The orthonormal Walsh–Hadamard transform in Sylvester's order, for powers of two."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, Shaped


def is_power_of_two(n: int) -> bool:
    """Whether n is 1, 2, 4, 8, …

    >>> [n for n in range(-1, 9) if is_power_of_two(n)]
    [1, 2, 4, 8]
    """
    return n > 0 and n & (n - 1) == 0


def orthogonal_hadamard(x: Shaped[Array, "*shape"], axis: int = -1) -> Float[Array, "*shape"]:
    """Returns the orthonormal Walsh–Hadamard transform of x along one axis.

    ``X_k = n^(-1/2) Σ_j (−1)^popcount(j & k) x_j``, in n log₂ n additions. The map is orthogonal
    and symmetric, so it is its own inverse.

    Args:
        x: floating array; the transformed axis has a length n that is a power of two. Half
            precision is computed in float32.
        axis: the axis to transform.

    Returns:
        The coefficients, with x's shape and dtype.

    Raises:
        TypeError: x is not real floating.
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
    _check_length(x.shape[axis])
    return _transform(x, axis=axis)


@functools.partial(jax.jit, static_argnames="axis")
def _transform(x: Array, *, axis: int) -> Array:
    moved = jnp.moveaxis(x, axis, -1)
    shape, n = moved.shape, moved.shape[-1]
    y = moved.astype(jnp.promote_types(x.dtype, jnp.float32))
    half = 1
    while half < n:
        y = y.reshape(*shape[:-1], n // (2 * half), 2, half)
        first, second = y[..., 0, :], y[..., 1, :]
        y = jnp.stack([first + second, first - second], axis=-2)
        half *= 2
    y = (y * math.sqrt(1 / n)).reshape(shape)
    return jnp.moveaxis(y, -1, axis).astype(x.dtype)


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

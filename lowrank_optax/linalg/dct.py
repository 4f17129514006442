"""The orthonormal discrete cosine transform, by whichever method suits the device.

All methods work on the second-to-last axis, whose neighbours in memory are transformed alike; any
other axis is moved there and back.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Shaped

from lowrank_optax.linalg.dct_basis import dct_columns, dct_matrix, multiply_basis
from lowrank_optax.linalg.dct_factored import (
    factored_dct,
    factored_idct,
    has_balanced_factors,
    row_order,
)
from lowrank_optax.linalg.dct_fft import fft_dct, fft_idct

__all__ = ["choose_method", "dct_columns", "dct_matrix", "orthogonal_dct", "orthogonal_idct"]

# By method, the transform and its inverse.
_TRANSFORMS: dict[str, tuple[Callable[..., Array], Callable[..., Array]]] = {
    "fft": (fft_dct, fft_idct),
    "factored": (factored_dct, factored_idct),
    "matmul": (functools.partial(multiply_basis, "III"), functools.partial(multiply_basis, "II")),
}
METHODS = ("auto", *_TRANSFORMS)


def orthogonal_dct(
    x: Shaped[Array, "*shape"],
    axis: int = -1,
    method: str = "auto",
    *,
    dtype: DTypeLike | None = None,
    precision: Any = None,
) -> Float[Array, "*shape"]:
    """Returns the orthonormal DCT-II of x along one axis.

    ``X_k = c_k Σ_j x_j cos(π (2j + 1) k / 2n)`` with ``c_0 = √(1/n)`` and ``c_k = √(2/n)``:
    an orthogonal map, so norms and inner products are kept and its gradient is its inverse.

    Args:
        x: real floating array; the transformed axis has any length n of at least 1. Of arrays that
            are spread over devices that axis must be whole: see
            :func:`lowrank_optax.sharding.transforms.transform_columns` for others.
        axis: the axis to transform; fastest for the second-to-last, -2.
        method: "fft" (Makhoul's algorithm on a real FFT; half precision is computed in
            float32), "factored" (two matrix products of sizes n1 and 2 n2 with n = n1·n2, which run
            on matrix units in half precision; an n that is prime, or has no balanced factors,
            takes "matmul"), "matmul" (one product with the DCT matrix, generated on the fly), or
            "auto": by length and platform, see :func:`choose_method`.
        dtype: of the result, such as float32 for the coefficients of a bfloat16 array; by
            default x's.
        precision: of products, as `jax.lax.dot_general` takes it; by default the highest in
            float32 and float64. Half precision is multiplied as such and added up in float32.

    Raises:
        TypeError: x or dtype is not real floating.
        ValueError: the axis does not exist or is empty, or the method is unknown.

    Reference: Makhoul (1980); FFT-based Dynamic Subspace Selection (arXiv 2505.17967).

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(12.0).reshape(3, 4)
    >>> bool(jnp.allclose(orthogonal_dct(x), x @ dct_matrix(4), atol=1e-5))
    True
    """
    return _validated_transform(x, axis, method, dtype, precision, inverse=False)


def orthogonal_idct(
    x: Shaped[Array, "*shape"],
    axis: int = -1,
    method: str = "auto",
    *,
    dtype: DTypeLike | None = None,
    precision: Any = None,
) -> Float[Array, "*shape"]:
    """Returns the inverse of :func:`orthogonal_dct` (the orthonormal DCT-III) along one axis.

    ``x_j = Σ_k c_k X_k cos(π (2j + 1) k / 2n)``. Arguments, result and errors are those of
    :func:`orthogonal_dct`.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(5.0)
    >>> bool(jnp.allclose(orthogonal_idct(orthogonal_dct(x)), x, atol=1e-5))
    True
    """
    return _validated_transform(x, axis, method, dtype, precision, inverse=True)


def domain_order(n: int) -> np.ndarray | None:
    """The coefficient of each row of `domain_dct`; None for 0, 1, 2, …

    It depends on nothing but n, so that what is stored in it means the same on every platform.
    """
    # Up to 256 some platforms take one product; see `choose_method`.
    return row_order(n) if n > 256 else None


@functools.partial(jax.jit, static_argnames="dtype")
def domain_dct(x: Float[Array, "*batch n m"], dtype: DTypeLike) -> Float[Array, "*batch n m"]:
    """The DCT-II of the second-to-last axis with its rows in the order of `domain_order`."""
    if domain_order(x.shape[-2]) is None:
        return orthogonal_dct(x, axis=-2, dtype=dtype)
    return factored_dct(x, dtype, ordered=False)


@functools.partial(jax.jit, static_argnames="dtype")
def domain_idct(x: Float[Array, "*batch n m"], dtype: DTypeLike) -> Float[Array, "*batch n m"]:
    """The inverse of `domain_dct`."""
    if domain_order(x.shape[-2]) is None:
        return orthogonal_idct(x, axis=-2, dtype=dtype)
    return factored_idct(x, dtype, ordered=False)


def choose_method(n: int, backend: str, *, last: bool = False) -> str:
    """Returns what method="auto" uses for length n: "fft", "factored" or "matmul".

    The backend is "cpu", "gpu" or "tpu". Where the last axis is transformed XLA's FFT needs no
    transposes. In half precision the choice is the same.

    >>> choose_method(4096, backend="cpu")
    'factored'
    >>> choose_method(4096, backend="cpu", last=True)
    'fft'
    """
    # Measured by benchmarks/measure/dct.py on two CPU cores. Along the second-to-last axis the
    # factored form takes a third to a fifth of the FFT's time from 96 to 4096, in float32 and
    # bfloat16, and is level with the product up to 64; of lengths without factors the product is
    # the faster up to 512. Along the last axis the FFT wins from 512 on and is level with the
    # product at 256.
    # On accelerators by reasoning: matrix units want products of about 256, which cost no more
    # than a factored transform's passes over memory.
    if backend == "cpu" and last:
        return "matmul" if n <= 256 else "fft"
    if n <= (64 if backend == "cpu" else 256):
        return "matmul"
    if has_balanced_factors(n):
        return "factored"
    # TPUs have no fast FFT.
    return "matmul" if backend == "tpu" or n <= 512 else "fft"


def _validated_transform(
    x: Array, axis: int, method: str, dtype: DTypeLike | None, precision: Any, *, inverse: bool
) -> Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"the DCT takes real floating arrays, not {x.dtype.name} of shape {x.shape}: "
            "convert it first, e.g. x.astype(jnp.float32)"
        )
    dtype = jnp.dtype(x.dtype if dtype is None else dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"the DCT is real: dtype {dtype.name} is not a floating dtype")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"axis {axis} is out of range for an array of shape {x.shape}: "
            f"choose one of {-x.ndim}..{x.ndim - 1}"
            if x.ndim
            else f"axis {axis} is out of range: a scalar has no axis to transform"
        )
    if x.shape[axis] == 0:
        raise ValueError(f"axis {axis} of shape {x.shape} is empty: the DCT needs length >= 1")
    if method not in METHODS:
        raise ValueError(f"unknown DCT method {method!r}: choose one of {', '.join(METHODS)}")
    if method == "factored" and not has_balanced_factors(x.shape[axis]):
        method = "matmul"
    return _transform(
        x, axis=axis % x.ndim, method=method, dtype=dtype, precision=precision, inverse=inverse
    )


@functools.partial(jax.jit, static_argnames=("axis", "method", "dtype", "precision", "inverse"))
def _transform(
    x: Array, *, axis: int, method: str, dtype: DTypeLike, precision: Any, inverse: bool
) -> Array:
    def by(method: str) -> Callable[[Array], Array]:
        return lambda x: _TRANSFORMS[method][inverse](x, dtype, precision)

    last = axis == x.ndim - 1
    moved = x[:, None] if x.ndim == 1 else jnp.moveaxis(x, axis, -2)
    y = _by_platform(by, moved, last) if method == "auto" else by(method)(moved)
    return y[:, 0] if x.ndim == 1 else jnp.moveaxis(y, -2, axis)


_PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "rocm": "gpu", "tpu": "tpu"}


def _by_platform(
    by: Callable[[str], Callable[[Array], Array]], x: Float[Array, "*batch n m"], last: bool
) -> Float[Array, "*batch n m"]:
    """The transform by the method for the platform that the program is compiled for."""
    choices = {
        platform: choose_method(x.shape[-2], backend, last=last)
        for platform, backend in _PLATFORMS.items()
    }
    # One function a method: platforms that agree share a branch, and need none if all do.
    branches = {method: by(method) for method in set(choices.values())}
    if len(branches) == 1:
        return branches[choices["cpu"]](x)
    per_platform = {platform: branches[method] for platform, method in choices.items()}
    return jax.lax.platform_dependent(x, default=branches[choices["cuda"]], **per_platform)

"""The orthonormal discrete cosine transform, by whichever method suits the device.

``orthogonal_dct(x) == x @ dct_matrix(n)`` along any axis, in one of three ways: a real FFT
(:mod:`~lowrank_optax.linalg.dct_fft`), two small matrix products
(:mod:`~lowrank_optax.linalg.dct_factored`) or one large one.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Shaped

from lowrank_optax.linalg.dct_basis import dct_columns, dct_matrix, matmul_dct, matmul_idct
from lowrank_optax.linalg.dct_factored import (
    factored_dct,
    factored_idct,
    has_balanced_factors,
)
from lowrank_optax.linalg.dct_fft import fft_dct, fft_idct
from lowrank_optax.linalg.dct_partitioned import partitioned_transform
from lowrank_optax.sharding.types import on_several_devices

__all__ = ["choose_method", "dct_columns", "dct_matrix", "orthogonal_dct", "orthogonal_idct"]

METHODS = ("auto", "fft", "factored", "matmul")


def orthogonal_dct(
    x: Shaped[Array, "*shape"], axis: int = -1, method: str = "auto"
) -> Float[Array, "*shape"]:
    """Returns the orthonormal DCT-II of x along one axis.

    ``X_k = c_k Σ_j x_j cos(π (2j + 1) k / 2n)`` with ``c_0 = √(1/n)`` and ``c_k = √(2/n)``:
    an orthogonal map, so norms and inner products are kept and its gradient is its inverse.

    Args:
        x: real floating array; the transformed axis has any length n of at least 1.
        axis: the axis to transform.
        method: "fft" (Makhoul's algorithm on a real FFT; half precision is computed in
            float32), "factored" (two matrix products of sizes n1 and n2 with n = n1·n2, which run
            on matrix units in half precision; an n that is prime, or whose factors are more than
            8 : 1 apart, takes "matmul"), "matmul" (one product with the DCT matrix, generated on
            the fly), or "auto": see :func:`choose_method`. Arrays that are spread over devices
            are never gathered: :mod:`~lowrank_optax.linalg.dct_partitioned`.

    Returns:
        The coefficients, with x's shape and dtype.

    Raises:
        TypeError: x is not real floating.
        ValueError: the axis does not exist or is empty, or the method is unknown.

    Reference: Makhoul (1980); FFT-based Dynamic Subspace Selection (arXiv 2505.17967).

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(12.0).reshape(3, 4)
    >>> bool(jnp.allclose(orthogonal_dct(x), x @ dct_matrix(4), atol=1e-5))
    True
    """
    return _validated_transform(x, axis, method, inverse=False)


def orthogonal_idct(
    x: Shaped[Array, "*shape"], axis: int = -1, method: str = "auto"
) -> Float[Array, "*shape"]:
    """Returns the inverse of :func:`orthogonal_dct` (the orthonormal DCT-III) along one axis.

    ``x_j = Σ_k c_k X_k cos(π (2j + 1) k / 2n)``. Arguments, result and errors are those of
    :func:`orthogonal_dct`.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(5.0)
    >>> bool(jnp.allclose(orthogonal_idct(orthogonal_dct(x)), x, atol=1e-5))
    True
    """
    return _validated_transform(x, axis, method, inverse=True)


def choose_method(n: int, dtype: DTypeLike, backend: str | None = None) -> str:
    """Returns what method="auto" uses for length n: "fft", "factored" or "matmul".

    Args:
        n: length of the transformed axis.
        dtype: dtype of the transformed array.
        backend: "cpu", "gpu" or "tpu"; by default the backend JAX runs on.

    Returns:
        The method's name.

    >>> choose_method(4096, "float32", backend="cpu")
    'fft'
    >>> choose_method(4096, "bfloat16", backend="gpu")
    'factored'
    """
    backend = backend or jax.default_backend()
    if n <= _MATMUL_UP_TO:
        return "matmul"
    if backend == "cpu":
        return "fft"
    if has_balanced_factors(n):
        return "factored"
    return "matmul" if backend == "tpu" else "fft"  # TPUs have no fast FFT


# Measured by benchmarks/dct.py on two CPU cores: the product wins by up to 3 times at n <= 128,
# is level with the FFT (0.7 to 1.3 times) at 256 and loses from 512 on; the FFT is faster than the
# factored form from there on. On accelerators by reasoning, not measured: matrix units want
# products of about that size, and one costs no more than a factored transform's passes over memory.
_MATMUL_UP_TO = 256

_TRANSFORMS: dict[tuple[str, bool], Callable[[Array], Array]] = {
    ("fft", False): fft_dct,
    ("fft", True): fft_idct,
    ("factored", False): factored_dct,
    ("factored", True): factored_idct,
    ("matmul", False): matmul_dct,
    ("matmul", True): matmul_idct,
}


def _validated_transform(x: Array, axis: int, method: str, *, inverse: bool) -> Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"the DCT takes real floating arrays, not {x.dtype.name} of shape {x.shape}: "
            "convert it first, e.g. x.astype(jnp.float32)"
        )
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
    if method == "auto":
        method = choose_method(x.shape[axis], x.dtype)
    if method == "factored" and not has_balanced_factors(x.shape[axis]):
        method = "matmul"
    split = on_several_devices(x)
    return _transform(x, axis=axis, method=method, inverse=inverse, split=split)


@functools.partial(jax.jit, static_argnames=("axis", "method", "inverse", "split"))
def _transform(x: Array, *, axis: int, method: str, inverse: bool, split: bool) -> Array:
    moved = jnp.moveaxis(x, axis, -1)
    transform, back = _TRANSFORMS[method, inverse], _TRANSFORMS[method, not inverse]
    moved = partitioned_transform(moved, transform, back) if split else transform(moved)
    return jnp.moveaxis(moved, -1, axis)

"""The DCT through a real FFT of the same length: Makhoul's algorithm on the half spectrum.

Everything but the FFT works on the second-to-last axis, on rows that are contiguous. XLA's FFT
takes the last axis only, so its operand and its result are transposed, in one pass each together
with the reordering before it and the twiddles after it: 6 passes over the matrix in all.
"""

import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, DTypeLike, Float

from lowrank_optax.linalg.precision import wide_dtype


def fft_dct(
    x: Float[Array, "*batch n m"], dtype: DTypeLike, precision: Any = None
) -> Float[Array, "*batch n m"]:
    """DCT-II of the second-to-last axis.

    With v the even entries of x followed by its odd entries reversed, V = rfft(v) and
    ω_k = c_k exp(-iπk / 2n): ``X_k = Re(ω_k V_k)`` and ``X_{n-k} = -Im(ω_k V_k)``, so the
    n / 2 + 1 bins of the real FFT give all n coefficients. There are no products that could have a
    precision.

    Reference: Makhoul (1980), "A fast cosine transform in one and two dimensions".
    """
    del precision
    n = x.shape[-2]
    computing = wide_dtype(jnp.promote_types(x.dtype, dtype))  # no FFT of half precision
    v = makhoul_order(x.astype(computing))
    # Without the barrier the transpose is moved past real and imaginary part and done twice.
    spectrum = lax.optimization_barrier(jnp.fft.rfft(v.mT).mT)
    real, imaginary = spectrum.real, spectrum.imag
    cosine, sine = _twiddles(n, computing, inverse=False)
    first = real * cosine + imaginary * sine
    second = (real * sine - imaginary * cosine)[..., 1 : (n + 1) // 2, :]
    return jnp.concatenate([first, jnp.flip(second, -2)], axis=-2).astype(dtype)


def fft_idct(
    x: Float[Array, "*batch n m"], dtype: DTypeLike, precision: Any = None
) -> Float[Array, "*batch n m"]:
    """Inverse DCT-II (DCT-III) of the second-to-last axis: the steps of :func:`fft_dct` undone.

    The half spectrum is ``V_k = (X_k - i X_{n-k}) / ω_k``, with X_n taken as 0.
    """
    del precision
    n = x.shape[-2]
    computing = wide_dtype(jnp.promote_types(x.dtype, dtype))  # no FFT of half precision
    X = x.astype(computing)
    real, mirrored = X[..., 1 : n // 2 + 1, :], jnp.flip(X[..., (n + 1) // 2 :, :], -2)
    constant = X[..., :1, :] * math.sqrt(n)
    cosine, sine = (twiddle[1:] for twiddle in _twiddles(n, computing, inverse=True))
    rest = lax.complex(real * cosine + mirrored * sine, real * sine - mirrored * cosine)
    # Row 0 apart: a padding of `mirrored`, used twice, would be a pass of its own.
    spectrum = jnp.concatenate([lax.complex(constant, jnp.zeros_like(constant)), rest], axis=-2)
    v = jnp.fft.irfft(lax.optimization_barrier(spectrum).mT, n).mT
    return undo_makhoul_order(lax.optimization_barrier(v)).astype(dtype)


def makhoul_order(x: Float[Array, "*batch n m"]) -> Float[Array, "*batch n m"]:
    """Makhoul's ordering of the rows: x_0, x_2, x_4, ..., x_5, x_3, x_1."""
    return jnp.concatenate([x[..., ::2, :], jnp.flip(x[..., 1::2, :], -2)], axis=-2)


def undo_makhoul_order(v: Float[Array, "*batch n m"]) -> Float[Array, "*batch n m"]:
    """The inverse of :func:`makhoul_order`."""
    n, m = v.shape[-2:]
    even, odd = v[..., : (n + 1) // 2, :], jnp.flip(v[..., (n + 1) // 2 :, :], -2)
    if n % 2:
        odd = jnp.pad(odd, [(0, 0)] * (odd.ndim - 2) + [(0, 1), (0, 0)])
    pairs = jnp.stack([even, odd], axis=-2)
    return pairs.reshape(*v.shape[:-2], n + n % 2, m)[..., :n, :]


def _twiddles(n: int, dtype: DTypeLike, *, inverse: bool) -> tuple[Array, Array]:
    """Real and negated imaginary part of ω_k, or real and imaginary part of 1 / ω_k: columns.

    Constants of n / 2 + 1 numbers: left in the graph, XLA fuses the cosines into the
    product with the spectrum and evaluates them again for every entry (twice the time).
    """
    scales = [math.sqrt((1 if k == 0 else 2) / n) for k in range(n // 2 + 1)]
    if inverse:
        scales = [1 / scale for scale in scales]
    angles = [math.pi * k / (2 * n) for k in range(n // 2 + 1)]
    cosine = [scale * math.cos(angle) for scale, angle in zip(scales, angles, strict=True)]
    sine = [scale * math.sin(angle) for scale, angle in zip(scales, angles, strict=True)]
    return jnp.array(cosine, dtype)[:, None], jnp.array(sine, dtype)[:, None]

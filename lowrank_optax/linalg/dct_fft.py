"""The DCT through a real FFT of the same length: Makhoul's algorithm on the half spectrum."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def fft_dct(x: Float[Array, "*rows n"]) -> Float[Array, "*rows n"]:
    """DCT-II of the last axis.

    With v the even entries of x followed by its odd entries reversed, V = rfft(v) and
    ω_k = c_k exp(-iπk / 2n): ``X_k = Re(ω_k V_k)`` and ``X_{n-k} = -Im(ω_k V_k)``, so the
    n / 2 + 1 bins of the real FFT give all n coefficients.

    Reference: Makhoul (1980), "A fast cosine transform in one and two dimensions".
    """
    n = x.shape[-1]
    computing = jnp.promote_types(x.dtype, jnp.float32)
    spectrum = jnp.fft.rfft(evens_then_odds_reversed(x.astype(computing)))
    real, imaginary = spectrum.real, spectrum.imag
    cosine, sine = _twiddles(n, computing, inverse=False)
    first = real * cosine + imaginary * sine
    second = (real * sine - imaginary * cosine)[..., 1 : (n + 1) // 2]
    return jnp.concatenate([first, jnp.flip(second, -1)], axis=-1).astype(x.dtype)


def fft_idct(x: Float[Array, "*rows n"]) -> Float[Array, "*rows n"]:
    """Inverse DCT-II (DCT-III) of the last axis: the steps of :func:`fft_dct` undone.

    The half spectrum is ``V_k = (X_k - i X_{n-k}) / ω_k``, with X_n taken as 0.
    """
    n = x.shape[-1]
    computing = jnp.promote_types(x.dtype, jnp.float32)
    coefficients = x.astype(computing)
    real = coefficients[..., : n // 2 + 1]
    mirrored = jnp.flip(coefficients[..., (n + 1) // 2 :], -1)
    mirrored = jnp.concatenate([jnp.zeros_like(real[..., :1]), mirrored], axis=-1)
    cosine, sine = _twiddles(n, computing, inverse=True)
    spectrum = lax.complex(
        real * cosine + mirrored * sine,
        real * sine - mirrored * cosine,
    )
    return undo_evens_then_odds_reversed(jnp.fft.irfft(spectrum, n)).astype(x.dtype)


def evens_then_odds_reversed(x: Float[Array, "*rows n"]) -> Float[Array, "*rows n"]:
    """Makhoul's ordering of the last axis: x_0, x_2, x_4, ..., x_5, x_3, x_1."""
    return jnp.concatenate([x[..., ::2], jnp.flip(x[..., 1::2], -1)], axis=-1)


def undo_evens_then_odds_reversed(v: Float[Array, "*rows n"]) -> Float[Array, "*rows n"]:
    """The inverse of :func:`evens_then_odds_reversed`."""
    n = v.shape[-1]
    even, odd = v[..., : (n + 1) // 2], jnp.flip(v[..., (n + 1) // 2 :], -1)
    odd = jnp.pad(odd, [(0, 0)] * (odd.ndim - 1) + [(0, n % 2)])
    pairs = jnp.stack([even, odd], axis=-1)
    return pairs.reshape(*v.shape[:-1], n + n % 2)[..., :n]


def _twiddles(n: int, dtype: jnp.dtype, *, inverse: bool) -> tuple[Array, Array]:
    """Real and negated imaginary part of ω_k, or real and imaginary part of 1 / ω_k.

    Constants of n / 2 + 1 numbers: left in the graph, XLA fuses the cosines into the
    product with the spectrum and evaluates them again for every row (twice the time).
    """
    scales = [math.sqrt((1 if k == 0 else 2) / n) for k in range(n // 2 + 1)]
    if inverse:
        scales = [1 / scale for scale in scales]
    angles = [math.pi * k / (2 * n) for k in range(n // 2 + 1)]
    cosine = [scale * math.cos(angle) for scale, angle in zip(scales, angles, strict=True)]
    sine = [scale * math.sin(angle) for scale, angle in zip(scales, angles, strict=True)]
    return jnp.array(cosine, dtype), jnp.array(sine, dtype)

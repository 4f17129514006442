"""The DCT as two small matrix products: one Cooley–Tukey step for matrix units."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lowrank_optax.linalg.dct_fft import (
    evens_then_odds_reversed,
    undo_evens_then_odds_reversed,
)

# By reasoning: at n1 = 8 n2 the factored form costs 1.6 times the balanced one.
_MOST_UNBALANCED = 8


def factor_pair(n: int) -> tuple[int, int]:
    """The factorisation n = n1·n2, n1 >= n2, with the smallest n1 + n2; (n, 1) for a prime."""
    n2 = next(d for d in range(math.isqrt(n), 0, -1) if n % d == 0)
    return n // n2, n2


def has_balanced_factors(n: int) -> bool:
    """Whether n splits well: then the factors' matrices hold at most 16 n numbers."""
    n1, n2 = factor_pair(n)
    return n2 > 1 and n1 <= _MOST_UNBALANCED * n2


def factored_dct(x: Float[Array, "*rows n"]) -> Float[Array, "*rows n"]:
    """DCT-II of the last axis in O(n (n1 + n2)) multiplications a row, n = n1·n2.

    With v Makhoul's ordering of x (evens, then odds reversed), j = j1·n2 + j2 and
    k = k1 + n1·k2, the phase of ``X_k = c_k Re Σ_j v_j exp(-iπ (4j + 1) k / 2n)`` splits into
    exp(-2πi j1 k1 / n1) · exp(-iπ (4 j2 + 1) k1 / 2n) · exp(-iπ (4 j2 + 1) k2 / 2 n2):
    a product over j1, an elementwise twiddle, and a product over j2 of which only the real
    part is formed. Half precision is multiplied as such and accumulated in float32.
    """
    n = x.shape[-1]
    n1, n2 = factor_pair(n)
    outer, cosine, sine, inner = _factors(n1, n2, x.dtype)
    v = evens_then_odds_reversed(x).reshape(*x.shape[:-1], n1, n2)
    real, imaginary = jnp.split(_einsum("jp,...jb->...pb", outer, v), 2, axis=-2)
    turned = jnp.concatenate(
        [real * cosine + imaginary * sine, imaginary * cosine - real * sine], axis=-1
    )
    # The transposed output of this product is several times faster as a separate transpose.
    product = jnp.swapaxes(_einsum("...kq,ql->...kl", turned.astype(x.dtype), inner), -1, -2)
    return (product.reshape(x.shape) * _constant_term_scale(n, product.dtype)).astype(x.dtype)


def factored_idct(x: Float[Array, "*rows n"]) -> Float[Array, "*rows n"]:
    """Inverse DCT-II of the last axis: the adjoint of :func:`factored_dct`, step by step."""
    n = x.shape[-1]
    n1, n2 = factor_pair(n)
    outer, cosine, sine, inner = _factors(n1, n2, x.dtype)
    scale = _constant_term_scale(n, jnp.promote_types(x.dtype, jnp.float32))
    scaled = (x * scale).astype(x.dtype).reshape(*x.shape[:-1], n2, n1)
    product = _einsum("...kl,ql->...kq", jnp.swapaxes(scaled, -1, -2), inner)
    real, imaginary = jnp.split(product, 2, axis=-1)
    turned = jnp.concatenate(
        [real * cosine - imaginary * sine, real * sine + imaginary * cosine], axis=-2
    )
    v = _einsum("jp,...pb->...jb", outer, turned.astype(x.dtype)).reshape(x.shape)
    return undo_evens_then_odds_reversed(v).astype(x.dtype)


def _einsum(equation: str, a: Array, b: Array) -> Array:
    return jnp.einsum(
        equation,
        a,
        b,
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.promote_types(a.dtype, jnp.float32),
    )


def _factors(n1: int, n2: int, dtype: jnp.dtype) -> tuple[Array, Array, Array, Array]:
    """The outer product's matrix (n1, 2 n1), the twiddle's cosine and sine (n1, n2), and the
    inner product's matrix (2 n2, n2); real and imaginary parts side by side.

    O(n) constants; phases are reduced as integers, so they are exact at any n.
    """
    n = n1 * n2
    j1, k1, j2, k2 = range(n1), range(n1), range(n2), range(n2)
    outer = [[_cosine(j * k, n1) for k in k1] + [-_sine(j * k, n1) for k in k1] for j in j1]
    cosine = [[_cosine((4 * j + 1) * k, 4 * n) for j in j2] for k in k1]
    sine = [[_sine((4 * j + 1) * k, 4 * n) for j in j2] for k in k1]
    inner = [[_cosine((4 * j + 1) * k, 4 * n2) for k in k2] for j in j2]
    inner += [[_sine((4 * j + 1) * k, 4 * n2) for k in k2] for j in j2]
    computing = jnp.promote_types(dtype, jnp.float32)
    return (
        (jnp.array(outer, computing) * math.sqrt(1 / n1)).astype(dtype),
        jnp.array(cosine, computing),
        jnp.array(sine, computing),
        (jnp.array(inner, computing) * math.sqrt(2 / n2)).astype(dtype),
    )


def _cosine(phase: int, period: int) -> float:
    return math.cos(2 * math.pi * (phase % period) / period)


def _sine(phase: int, period: int) -> float:
    return math.sin(2 * math.pi * (phase % period) / period)


def _constant_term_scale(n: int, dtype: jnp.dtype) -> Array:
    """c_k / √(2 / n): 1 but for the constant term's."""
    return jnp.where(jnp.arange(n) == 0, math.sqrt(0.5), 1.0).astype(dtype)

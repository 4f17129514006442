"""The DCT as two products with small matrices: one Cooley–Tukey step for matrix units."""

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, DTypeLike, Float

from lowrank_optax.linalg.dct_fft import makhoul_order, undo_makhoul_order
from lowrank_optax.linalg.precision import step_operands, wide_dtype
from lowrank_optax.linalg.products import multiply_rows

# Beyond this multiple of the least n1 + 2 n2, which is √(8 n), one large product is preferred.
_MOST_UNBALANCED = 1.6


@functools.cache
def factor_pair(n: int) -> tuple[int, int]:
    """The factorisation n = n1·n2 with the fewest multiplications, n1 + 2 n2 for an entry.

    n1 is even where n is. Of two that are level the one with the larger n1, whose second product
    has the smaller matrices.
    """
    divisors = [d for d in range(1, n + 1) if n % d == 0 and (d % 2 == 0 or n % 2 == 1)]
    n1 = min(divisors, key=lambda d: (d + 2 * (n // d), -d))
    return n1, n // n1


def has_balanced_factors(n: int) -> bool:
    """Whether n splits well, so that two products with small matrices beat one with a large."""
    n1, n2 = factor_pair(n)
    return n2 > 1 and n1 + 2 * n2 <= _MOST_UNBALANCED * math.sqrt(8 * n)


def row_order(n: int) -> np.ndarray | None:
    """The coefficient k of each row in the order that `factored_dct` finds them in.

    None where n has no balanced factors, or an odd n1, whose rows are not n in number.
    """
    n1, n2 = factor_pair(n)
    if not has_balanced_factors(n) or n1 % 2:
        return None
    k = np.arange(n1 // 2)[:, None] + n1 * np.arange(n2)
    mirrored = n - k
    mirrored[0] = n1 // 2 + n1 * np.arange(n2)
    return np.stack([k, mirrored], axis=1).reshape(-1)


def factored_dct(
    x: Float[Array, "*batch n m"], dtype: DTypeLike, precision: Any = None, *, ordered: bool = True
) -> Float[Array, "*batch n m"]:
    """DCT-II of the second-to-last axis in n1 + 2 n2 multiplications an entry, n = n1·n2.

    With v Makhoul's ordering of x (evens, then odds reversed), j = j1·n2 + j2 and
    k = k1 + n1·k2, the phase of ``Z_k = Σ_j v_j exp(-iπ (4j + 1) k / 2n)`` splits into
    exp(-2πi j1 k1 / n1) · exp(-iπ (4 j2 + 1) k / 2n): a product over j1, the same for every j2,
    then one over j2, with a matrix for every k1. As ``X_k = c_k Re Z_k`` and
    ``X_{n-k} = -c_k Im Z_k``, the residues k1 up to n1 / 2 suffice. Every step is an orthogonal map
    of n numbers, and rows of x stay whole: 8 passes over the matrix, of which `ordered=False`, with
    the rows in the order of `row_order`, saves 2.
    """
    x = x.astype(step_operands(x.dtype))
    *batch, n, m = x.shape
    n1, n2 = factor_pair(n)
    pairs = (n1 + 1) // 2
    v = makhoul_order(x).reshape(*batch, n1, n2 * m)
    Y = multiply_rows(_outer(n1, x.dtype), v, precision).astype(x.dtype)
    Y = Y.reshape(*batch, pairs, 2 * n2, m)
    Z = multiply_rows(_inner(n1, n2, x.dtype), Y, precision)
    if not ordered:
        return lax.optimization_barrier(Z.reshape(x.shape)).astype(dtype)
    return _in_order(Z.reshape(*batch, pairs, 2, n2, m), n1).reshape(x.shape).astype(dtype)


def factored_idct(
    x: Float[Array, "*batch n m"], dtype: DTypeLike, precision: Any = None, *, ordered: bool = True
) -> Float[Array, "*batch n m"]:
    """Inverse DCT-II of the second-to-last axis: :func:`factored_dct` transposed, step by step."""
    x = x.astype(step_operands(x.dtype))
    *batch, n, m = x.shape
    n1, n2 = factor_pair(n)
    pairs = (n1 + 1) // 2
    Z = _undo_in_order(x.reshape(*batch, n2, n1, m)) if ordered else x
    Z = Z.reshape(*batch, pairs, 2 * n2, m)
    Y = multiply_rows(_inner(n1, n2, x.dtype).mT, Z, precision).astype(x.dtype)
    v = multiply_rows(_outer(n1, x.dtype).T, Y.reshape(*batch, 2 * pairs, n2 * m), precision)
    # The barrier: else one half is sliced before the reshape, and all of v read for the other.
    return undo_makhoul_order(lax.optimization_barrier(v.reshape(x.shape))).astype(dtype)


def _in_order(Z: Float[Array, "*batch pairs 2 n2 m"], n1: int) -> Float[Array, "*batch n2 {n1} m"]:
    """Coefficients by (k2, k1): the first half as they are, the others from the mirrored half."""
    first, second = Z[..., 0, :, :], Z[..., 1, :, :]
    middle = second[..., : 1 - n1 % 2, :, :]
    mirrored = jnp.flip(second[..., 1:, :, :], (-3, -2))
    return jnp.swapaxes(jnp.concatenate([first, middle, mirrored], axis=-3), -3, -2)


def _undo_in_order(X: Float[Array, "*batch n2 n1 m"]) -> Float[Array, "*batch pairs 2 n2 m"]:
    """The inverse of :func:`_in_order`; an odd n1 has no middle residue, and a zero is there."""
    X = jnp.swapaxes(X, -3, -2)
    n1 = X.shape[-3]
    pairs = (n1 + 1) // 2
    middle = jnp.zeros_like(X[..., :1, :, :]) if n1 % 2 else X[..., pairs : pairs + 1, :, :]
    mirrored = jnp.flip(X[..., n1 // 2 + 1 :, :, :], (-3, -2))
    second = jnp.concatenate([middle, mirrored], axis=-3)
    return jnp.stack([X[..., :pairs, :, :], second], axis=-3)


def _outer(n1: int, dtype: DTypeLike) -> Float[Array, "rows {n1}"]:
    """The real DFT of size n1: two rows for every residue k1 < n1 / 2, real and imaginary part.

    Residues 0 and n1 / 2 are real and share the first two rows (a zero row for an odd n1).
    """
    j1, k1 = np.arange(n1), np.arange((n1 + 1) // 2)
    cosine, sine = _cosine_and_sine(np.outer(k1, j1), n1)
    rows = np.stack([cosine, -sine], axis=1)
    rows[0, 1] = 0 if n1 % 2 else 1 - 2 * (j1 % 2)
    return jnp.asarray(rows.reshape(-1, n1) * math.sqrt(1 / n1), dtype)


def _inner(n1: int, n2: int, dtype: DTypeLike) -> Float[Array, "pairs {2*n2} {2*n2}"]:
    """For every residue k1 < n1 / 2 the map from (real, imaginary) at all j2 to (X_k, X_{n-k}).

    Constants of O(n) numbers only: the angles of k1 and of n1·k2 are added in the graph, which
    takes 2 n·n2 operations for a matrix with n·m entries. Phases are reduced as integers.
    """
    n, pairs, computing = n1 * n2, (n1 + 1) // 2, wide_dtype(dtype)
    j2, k2 = 4 * np.arange(n2) + 1, np.arange(n2)
    scale = math.sqrt(2 / n2)

    def tables(phases: np.ndarray, period: int, scale: float) -> tuple[Array, Array]:
        cosine, sine = _cosine_and_sine(phases, period)
        return jnp.asarray(cosine * scale, computing), jnp.asarray(sine * scale, computing)

    cosine_k1, sine_k1 = tables(np.outer(np.arange(pairs), j2)[:, None], 4 * n, 1.0)
    cosine_k2, sine_k2 = tables(np.outer(k2, j2), 4 * n2, scale)
    cosine = cosine_k1 * cosine_k2 - sine_k1 * sine_k2
    sine = sine_k1 * cosine_k2 + cosine_k1 * sine_k2
    rows = jnp.stack([jnp.concatenate([cosine, sine], -1), jnp.concatenate([sine, -cosine], -1)], 1)
    # The first pair holds residue 0, and n1 / 2 in place of an imaginary part; c_0 = c_k / √2.
    constant = cosine_k2.at[0].multiply(math.sqrt(0.5))
    middle = tables(np.outer(n1 // 2 + n1 * k2, j2), 4 * n, 0.0 if n1 % 2 else scale)[0]
    first = jnp.stack([jnp.pad(constant, [(0, 0), (0, n2)]), jnp.pad(middle, [(0, 0), (n2, 0)])])
    return jnp.concatenate([first[None], rows[1:]]).reshape(pairs, 2 * n2, 2 * n2).astype(dtype)


def _cosine_and_sine(phases: np.ndarray, period: int) -> tuple[np.ndarray, np.ndarray]:
    angles = 2 * np.pi * (phases % period) / period
    return np.cos(angles), np.sin(angles)

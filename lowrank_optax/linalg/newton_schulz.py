"""Newton–Schulz orthonormalisation, on the small Gram matrix when that is cheaper."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Triple = tuple[float, float, float]
Coefficients = Sequence[float] | Sequence[Sequence[float]]

# Rounding errors of the Gram matrix's zero eigenvalues are multiplied by a² a step, and a
# negative eigenvalue that has grown large makes the iteration diverge. Past this growth the
# factor is applied to x and the Gram matrix formed anew: 5 steps of Muon's quintic stay below.
_MAX_GROWTH = 1e5


def newton_schulz(
    x: Float[Array, "*batch m n"],
    *,
    steps: int = 5,
    coefficients: Coefficients = (3.4445, -4.7750, 2.0315),
    eps: float = 1e-7,
) -> Float[Array, "*batch m n"]:
    """Returns an approximation of U Vᵀ, where x = U S Vᵀ is the singular value decomposition.

    ``X = x / (‖x‖_F + eps)``, then with A = X Xᵀ on the orientation with rows <= columns,
    ``X ← a X + b A X + c A² X`` at every step. The default coefficients bring the singular
    values to about 0.7 .. 1.2 in five steps rather than converge to 1.

    Every A is a polynomial in the first, so for a long x the iteration runs on the small
    Gram matrix and multiplies x once at the end: two long products in all instead of two
    a step. The form with the fewer multiplications is chosen from the shape. Half
    precision is computed in float32; a zero matrix stays zero.

    Args:
        x: matrices; leading axes are batch axes.
        steps: number of iterations, at least 0.
        coefficients: (a, b, c) for every step, or one such triple per step.
        eps: added to the Frobenius norm.

    Returns:
        The orthonormalised matrices, with x's shape and dtype.

    Raises:
        ValueError: steps is negative, or coefficients are neither three numbers nor
            `steps` triples.

    Reference: Jordan et al. (2024), "Muon"; used by Trion (arXiv 2505.17967).

    >>> import jax
    >>> x = jax.random.normal(jax.random.key(0), (32, 4))
    >>> s = jax.numpy.linalg.svd(newton_schulz(x), compute_uv=False)
    >>> bool((s > 0.6).all() and (s < 1.3).all())
    True
    """
    return _iterate(x, tuple(_per_step(coefficients, steps)), eps)


def _per_step(coefficients: Coefficients, steps: int) -> list[Triple]:
    if steps < 0:
        raise ValueError(f"the number of Newton–Schulz steps must not be negative: {steps}")
    shared = len(coefficients) == 3 and not any(isinstance(c, Sequence) for c in coefficients)
    rows: list[Any] = [coefficients] * steps if shared else list(coefficients)
    if len(rows) != steps or any(not isinstance(row, Sequence) or len(row) != 3 for row in rows):
        raise ValueError(
            "Newton–Schulz coefficients must be three numbers (a, b, c), or one such triple "
            f"for each of the {steps} steps; got {coefficients!r}"
        )
    return [(float(a), float(b), float(c)) for a, b, c in rows]


@functools.partial(jax.jit, static_argnames=("triples", "eps"))
def _iterate(x: Array, triples: tuple[Triple, ...], eps: float) -> Array:
    tall = x.shape[-2] > x.shape[-1]
    wide = _transpose(x) if tall else x
    wide = _normalise(wide.astype(jnp.promote_types(x.dtype, jnp.float32)), eps)
    segments = _segments(triples)
    if _gram_is_cheaper(wide.shape[-2], wide.shape[-1], segments):
        for segment in segments:
            wide = _matmul(_gram_factor(_matmul(wide, _transpose(wide)), segment), wide)
    else:
        for triple in triples:
            wide = _plain_step(wide, triple)
    return (_transpose(wide) if tall else wide).astype(x.dtype)


def _segments(triples: tuple[Triple, ...]) -> list[list[Triple]]:
    """The steps, cut where the growth of rounding errors calls for a new Gram matrix."""
    segments: list[list[Triple]] = []
    growth = _MAX_GROWTH
    for triple in triples:
        if growth >= _MAX_GROWTH:
            segments.append([])
            growth = 1.0
        segments[-1].append(triple)
        growth *= max(1.0, triple[0] ** 2)
    return segments


def _gram_is_cheaper(rows: int, columns: int, segments: list[list[Triple]]) -> bool:
    """Compares multiplications, in units of rows²."""
    steps = sum(len(segment) for segment in segments)
    plain = steps * (2 * columns + rows)
    gram = sum(2 * columns + (4 * len(segment) - 3) * rows for segment in segments)
    return gram < plain


def _normalise(x: Array, eps: float) -> Array:
    """x / (‖x‖_F + eps), with neither overflow nor underflow in the squares."""
    largest = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True, initial=0)
    largest = jnp.where(largest > 0, largest, 1)
    # XLA may form the reciprocal, which is flushed to zero for anything above 8e37.
    shrink = jnp.where(largest > 1, 1 / 16, 1).astype(x.dtype)
    x = (x * shrink) / (largest * shrink)
    # At least 1, the largest entry, unless x is zero.
    norm = jnp.maximum(jnp.sqrt(jnp.sum(x * x, axis=(-2, -1), keepdims=True)), 1)
    return x / (norm + eps / largest)


def _plain_step(x: Array, triple: Triple) -> Array:
    a, b, c = triple
    gram = _matmul(x, _transpose(x))
    return a * x + _matmul(b * gram + c * _matmul(gram, gram), x)


def _gram_factor(gram: Array, triples: list[Triple]) -> Array:
    """The product of the steps' polynomials in the Gram matrix A; A ← P A P after each."""
    identity = jnp.eye(gram.shape[-1], dtype=gram.dtype)
    factor = identity
    for step, (a, b, c) in enumerate(triples):
        polynomial = a * identity + b * gram + c * _matmul(gram, gram)
        factor = polynomial if step == 0 else _matmul(polynomial, factor)
        if step + 1 < len(triples):
            gram = _matmul(polynomial, _matmul(gram, polynomial))
    return factor


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _transpose(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2)

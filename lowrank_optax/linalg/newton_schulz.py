"""Newton–Schulz orthonormalisation, on the small Gram matrix when that is cheaper."""

import functools
import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lowrank_optax.linalg.devices import in_auto_axes
from lowrank_optax.linalg.precision import wide_dtype

Triple = tuple[float, float, float]
Coefficients = str | Sequence[float] | Sequence[Sequence[float]]

MUON: Triple = (3.4445, -4.7750, 2.0315)

# arXiv 2505.16932, algorithm 1: the composition of the first T is the best of its kind for singular
# values between 0.001 and 1, at every T. Every later step repeats the last.
_POLAR_EXPRESS: tuple[Triple, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
# Room for rounding errors above the interval, as there; the last polynomial needs none.
_SAFETY = 1.01

NAMES = ("muon", "polar_express")

# Rounding errors of the Gram matrix's zero eigenvalues are multiplied by a² a step, and a
# negative eigenvalue that has grown large makes the iteration diverge. Past this growth the
# factor is applied to x and the Gram matrix formed anew: 5 steps of Muon's quintic stay below.
_MAX_GROWTH = 1e5

_matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


def newton_schulz(
    x: Float[Array, "*batch m n"],
    *,
    steps: int = 5,
    coefficients: Coefficients = MUON,
    eps: Any = 1e-7,
) -> Float[Array, "*batch m n"]:
    """Returns an approximation of U Vᵀ, where x = U S Vᵀ is the singular value decomposition.

    ``X = x / (‖x‖_F + eps)``, then with A = X Xᵀ on the orientation with rows <= columns,
    ``X ← a X + b A X + c A² X`` at every step. The default coefficients bring the singular
    values to about 0.7 .. 1.2 in five steps rather than converge to 1. "polar_express" brings
    those above ‖x‖_F / 1000 to 0.84 .. 1.13 in five steps and to 1 in eight.

    Every A is a polynomial in the first, so for a long x the iteration runs on the small
    Gram matrix and multiplies x once at the end: two long products in all instead of two
    a step. The form with the fewer multiplications is chosen from the shape. Half
    precision is computed in float32; a zero matrix stays zero.

    Args:
        x: matrices; leading axes are batch axes.
        steps: number of iterations, at least 0.
        coefficients: (a, b, c) for every step, one such triple per step, or a name: "muon" for
            (3.4445, -4.7750, 2.0315), "polar_express" for a triple per step that is the best at
            that step, for any number of steps.
        eps: added to the Frobenius norm.

    Returns:
        The orthonormalised matrices, with x's shape and dtype, and sharded as x is: where rows
        are on several devices only Gram matrices are added up.

    Raises:
        ValueError: steps is negative, or coefficients are neither three numbers nor
            `steps` triples nor a known name.

    Reference: Jordan et al. (2024), "Muon"; used by Trion (arXiv 2505.17967). "The Polar
    Express", arXiv 2505.16932, algorithm 1, which divides by 1.01 ‖x‖_F + eps.

    >>> import jax
    >>> x = jax.random.normal(jax.random.key(0), (32, 4))
    >>> s = jax.numpy.linalg.svd(newton_schulz(x), compute_uv=False)
    >>> bool((s > 0.6).all() and (s < 1.3).all())
    True
    """
    triples = tuple(coefficients_by_step(coefficients, steps))
    return in_auto_axes(functools.partial(_iterate, triples=triples, eps=eps), x)


def coefficients_by_step(coefficients: Coefficients, steps: int) -> list[Triple]:
    """A triple for every step, of what `newton_schulz` takes, which says what it raises."""
    if not isinstance(steps, numbers.Integral):
        raise TypeError(f"the number of Newton–Schulz steps must be an int: {steps}")
    if steps < 0:
        raise ValueError(f"the number of Newton–Schulz steps must not be negative: {steps}")
    if isinstance(coefficients, str):
        return _named(coefficients, steps)
    shared = len(coefficients) == 3 and not any(isinstance(c, Sequence) for c in coefficients)
    rows: list[Any] = [coefficients] * steps if shared else list(coefficients)
    if len(rows) != steps or any(not isinstance(row, Sequence) or len(row) != 3 for row in rows):
        raise ValueError(
            f"Newton–Schulz coefficients must be a name ({' or '.join(NAMES)}), three numbers "
            f"(a, b, c), or one such triple for each of the {steps} steps; got {coefficients!r}"
        )
    return [(float(a), float(b), float(c)) for a, b, c in rows]


def _named(name: str, steps: int) -> list[Triple]:
    if name not in NAMES:
        raise ValueError(
            f"Newton–Schulz coefficients named {name!r} are unknown; use {' or '.join(NAMES)}, "
            "three numbers (a, b, c), or one such triple per step"
        )
    if name == "muon":
        return [MUON] * steps
    *earlier, last = _POLAR_EXPRESS
    safe = [(a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in earlier]
    return (safe + [last] * steps)[:steps]


@functools.partial(jax.jit, static_argnames="triples")
def _iterate(x: Array, triples: tuple[Triple, ...], eps: Any) -> Array:
    tall = x.shape[-2] > x.shape[-1]
    wide = x.mT if tall else x
    wide, largest = _scaled(wide.astype(wide_dtype(x.dtype)))
    segments = _segments(triples)
    if _gram_is_cheaper(wide.shape[-2], wide.shape[-1], segments):
        for i, segment in enumerate(segments):
            gram = _matmul(wide, wide.mT)
            # ‖x‖² is the trace, so normalising costs no pass over x.
            ratio = 1 if i else _inverse_norm(jnp.trace(gram, axis1=-2, axis2=-1), largest, eps)
            wide = _matmul(ratio * _gram_factor(ratio**2 * gram, segment), wide)
    else:
        energy = jnp.sum(wide * wide, axis=(-2, -1))
        wide = wide * _inverse_norm(energy, largest, eps)
        for triple in triples:
            wide = _plain_step(wide, triple)
    return (wide.mT if tall else wide).astype(x.dtype)


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


def _scaled(x: Array) -> tuple[Array, Array]:
    """x over its largest magnitude, for squares that neither overflow nor underflow, and that."""
    largest = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True, initial=0)
    largest = jnp.where(largest > 0, largest, 1)
    # XLA may form the reciprocal, which is flushed to zero for anything above 8e37.
    shrink = jnp.where(largest > 1, 1 / 16, 1).astype(x.dtype)
    return (x * shrink) / (largest * shrink), largest


def _inverse_norm(energy: Array, largest: Array, eps: Any) -> Array:
    """1 / (‖x‖_F + eps) of a matrix that was divided by its largest entry, by which eps is too."""
    # At least 1, the largest entry, unless x is zero.
    norm = jnp.maximum(jnp.sqrt(energy), 1)[..., None, None]
    return 1 / (norm + eps / largest)


def _plain_step(x: Array, triple: Triple) -> Array:
    a, b, c = triple
    gram = _matmul(x, x.mT)
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

"""Orthonormal directions."""

import functools
from typing import Any

import jax
import optax

from lowrank_optax.linalg.arguments import require_static
from lowrank_optax.linalg.newton_schulz import MUON, coefficients_by_step, newton_schulz


def orthonormalize(
    steps: int = 5, coefficients: Any = MUON, eps: float = 1e-7
) -> optax.GradientTransformation:
    """Replace every matrix by the nearest one with orthonormal rows or columns, approximately.

    The longer of the last two axes does not matter: wide (..., r, m) or tall (..., m, r).

    Args:
      steps: Newton–Schulz iterations.
      coefficients: of the quintic; a name, a triple, or one triple per step. Or a function that
        orthonormalises an array (..., r, m) in a way of its own, in place of Newton–Schulz.
      eps: added to the Frobenius norm by which the matrix is first divided.

    Reference:
      arXiv 2505.17967, algorithm 1, line 7.

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.transforms import orthonormalize
      >>> tx = orthonormalize()
      >>> u, _ = tx.update({"w": 5.0 * jnp.eye(3, 2)}, tx.init({"w": jnp.eye(3, 2)}))
      >>> bool(abs(u["w"][0, 0] - 1) < 0.3)
      True
    """
    require_static("steps", steps)
    function = orthonormalizer(steps, coefficients, eps)
    return optax.stateless(lambda updates, _: jax.tree.map(function, updates))


def orthonormalizer(steps: int, coefficients: Any, eps: float = 1e-7) -> Any:
    """The function that `orthonormalize` applies to every array."""
    if callable(coefficients):
        return coefficients
    require_static("ns_steps", steps)
    coefficients_by_step(coefficients, steps)  # what is wrong with them is said here
    return functools.partial(newton_schulz, steps=steps, coefficients=coefficients, eps=eps)

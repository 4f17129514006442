"""Orthonormal directions, and columns of unit length."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from lowrank_optax.linalg.arguments import require_static
from lowrank_optax.linalg.newton_schulz import newton_schulz


def normalize_columns(eps: Any = 1e-8) -> optax.GradientTransformation:
    """Divide every column of every matrix (..., m, r) by its ℓ2 norm plus eps.

    Args:
      eps: added to the norms, so that a zero column stays zero.

    Returns:
      A transformation without state.

    Reference:
      arXiv 2504.05295, algorithm 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.transforms import normalize_columns
      >>> tx = normalize_columns()
      >>> u, _ = tx.update(jnp.array([[3.0, 0.0], [4.0, 0.0]]), tx.init(jnp.zeros((2, 2))))
      >>> [[round(value, 4) for value in row] for row in u.tolist()]
      [[0.6, 0.0], [0.8, 0.0]]
    """

    def normalize(x: Array) -> Array:
        wide = _widen(x)
        return (wide / (jnp.linalg.norm(wide, axis=-2, keepdims=True) + eps)).astype(x.dtype)

    return optax.stateless(lambda updates, _: jax.tree.map(normalize, updates))


def orthonormalize(
    steps: int = 5, coefficients: Any = (3.4445, -4.7750, 2.0315), eps: float = 1e-7
) -> optax.GradientTransformation:
    """Replace every matrix (..., m, r) by its nearest semi-orthogonal one, approximately.

    Args:
      steps: Newton–Schulz iterations.
      coefficients: of the quintic; a triple, or one triple per step.
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
    require_static("ns_steps", steps)
    return optax.stateless(
        lambda updates, _: jax.tree.map(
            lambda a: newton_schulz(a, steps=steps, coefficients=coefficients, eps=eps), updates
        )
    )


def _widen(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))

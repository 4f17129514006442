"""Residuals that descend: sign descent, gradient descent, and Fira's norm-scaled descent."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from lowrank_optax.axes.residuals.base import Residual, Step
from lowrank_optax.core.matrices import MatrixSpec


@dataclasses.dataclass(frozen=True)
class SignDescent(Residual):
    """Step along its sign; build with `residuals.sign_descent`."""

    scale: Any

    def finish(self, step: Step, state: Any) -> tuple[Float[Array, "*batch m n"], Any]:
        """u Pᵀ + scale · sign(G − a Pᵀ)."""
        left = step.projection.synthesize(step.reweighted(0.0, 1.0))
        return step.lifted() + jnp.asarray(self.scale, left.dtype) * jnp.sign(left), state


@dataclasses.dataclass(frozen=True)
class Sgd(Residual):
    """Step along it; build with `residuals.sgd`."""

    scale: Any

    def finish(self, step: Step, state: Any) -> tuple[Float[Array, "*batch m n"], Any]:
        """u Pᵀ + scale · (G − a Pᵀ)."""
        left = step.projection.synthesize(step.reweighted(0.0, 1.0))
        return step.lifted() + jnp.asarray(self.scale, left.dtype) * left, state


@dataclasses.dataclass(frozen=True)
class NormScaling(Residual):
    """Step along it as far as the inner optimizer would; build with `residuals.norm_scaling`."""

    growth_limit: Any
    eps: float

    uses_rows = True

    def init(self, spec: MatrixSpec, dtype: Any) -> Float[Array, "*batch"]:
        """Norm of the last residual step; 0 before the first."""
        return jnp.zeros(spec.batch, jnp.promote_types(dtype, jnp.float32))

    def finish(self, step: Step, state: Any) -> tuple[Float[Array, "*batch m n"], Any]:
        """u Pᵀ + φ (G − a Pᵀ) / L, in one synthesis."""
        rows = lambda x: jnp.linalg.norm(x, axis=-1, keepdims=True)
        S = rows(step.direction) / (rows(step.a) + self.eps) * step.reweighted(0.0, 1.0)
        norm = jnp.sqrt(jnp.sum(jnp.square(S), axis=(-2, -1)))
        growth = norm / (state + self.eps)
        L = jnp.where(state > 0, jnp.maximum(growth / self.growth_limit, 1.0), 1.0)
        embedded = step.projection.embed(step.u, step.basis, step.A.shape[-2:])
        update = step.projection.synthesize(embedded + S / L[..., None, None])
        return update, norm / L


def sign_descent(scale: Any = 1.0) -> Residual:
    """Step along the sign of the part outside the subspace, as FRUGAL does.

    Args:
      scale: its step size relative to the inner optimizer's.

    Reference:
      arXiv 2411.07837, algorithm 1.

    Example:
      >>> import lowrank_optax as lro
      >>> lro.residuals.sign_descent(0.1)
      SignDescent(scale=0.1)
    """
    return SignDescent(scale)


def sgd(scale: Any = 1.0) -> Residual:
    """Step along the part outside the subspace itself.

    Args:
      scale: its step size relative to the inner optimizer's.

    Example:
      >>> import lowrank_optax as lro
      >>> lro.residuals.sgd()
      Sgd(scale=1.0)
    """
    return Sgd(scale)


def norm_scaling(growth_limit: Any = 1.01, eps: float = 1e-8) -> Residual:
    """Step along the part outside, each row as long as the inner optimizer makes it (Fira).

    φ_i = ‖u_i‖ / (‖a_i‖ + eps) for every row i; S = φ (G − a Pᵀ); where ‖S‖ grew by more than the
    limit since the last step, it is scaled back to that growth.

    Args:
      growth_limit: γ, the largest growth of ‖S‖ in one step.
      eps: added to the norms that are divided by.

    Reference:
      arXiv 2410.01623, equations 9 and 10.
      Differs from the published code in taking the true complement G − a Pᵀ under any scale.

    Example:
      >>> import lowrank_optax as lro
      >>> lro.residuals.norm_scaling().growth_limit
      1.01
    """
    return NormScaling(growth_limit, eps)

"""Residuals that descend: sign descent, gradient descent, and Fira's norm-scaled descent."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.projections.base import Shape
from lowrank_optax.axes.residuals.base import Residual, Step
from lowrank_optax.linalg.precision import wide_dtype


@axis_value("scale")
class SignDescent(Residual):
    """Step along its sign; build with `residuals.sign_descent`."""

    scale: Any

    def finish(self, step: Step, state: Any) -> tuple[Float[Array, "*batch n m"], Any]:
        """P u + scale · sign(G − P a)."""
        left = step.projection.synthesize(step.outside())
        return step.lifted() + jnp.asarray(self.scale, left.dtype) * jnp.sign(left), state


@axis_value("scale")
class Sgd(Residual):
    """Step along it; build with `residuals.sgd`."""

    scale: Any

    def finish(self, step: Step, state: Any) -> tuple[Float[Array, "*batch n m"], Any]:
        """P u + scale · (G − P a), in one synthesis."""
        scaled = jnp.asarray(self.scale, step.A.dtype) * step.outside()
        return step.projection.synthesize(step.subspace.embed(step.u) + scaled), state


@axis_value("growth_limit", "eps")
class NormScaling(Residual):
    """Step along it as far as the inner optimizer would; build with `residuals.norm_scaling`."""

    growth_limit: Any
    eps: Any

    def init(self, shape: Shape, dtype: Any) -> Float[Array, "*batch"]:
        """Norm of the last residual step; 0 before the first."""
        return jnp.zeros(shape[:-2], wide_dtype(dtype))

    def finish(self, step: Step, state: Any) -> tuple[Float[Array, "*batch n m"], Any]:
        """P u + φ (G − P a) / L, in one synthesis."""
        norms = lambda x: jnp.linalg.norm(x, axis=-2, keepdims=True)
        S = norms(step.direction) / (norms(step.a) + self.eps) * step.outside()
        norm = jnp.sqrt(jnp.sum(jnp.square(S), axis=(-2, -1)))
        growth = norm / (state + self.eps)
        L = jnp.where(state > 0, jnp.maximum(growth / self.growth_limit, 1.0), 1.0)
        embedded = step.subspace.embed(step.u)
        update = step.projection.synthesize(embedded + S / L[..., None, None])
        return update, norm / L

    def check(self, parts: Any) -> None:
        """A row's norm inside the subspace must belong to a row outside."""
        if "m" in parts.projection.whole:
            raise ValueError(
                f"the residual {self} scales rows, but the projection {parts.projection} mixes "
                "them; use a one-sided projection, or another residual such as "
                "residuals.error_feedback()."
            )


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


def norm_scaling(growth_limit: Any = 1.01, eps: Any = 1e-8) -> Residual:
    """Step along the part outside, scaled vector by vector as the inner optimizer scales (Fira).

    φ_i = ‖u_i‖ / (‖a_i‖ + eps) for every i of the m; S = φ (G − P a); where ‖S‖ grew by more
    than the limit since the last step, it is scaled back to that growth.

    Args:
      growth_limit: γ, the largest growth of ‖S‖ in one step.
      eps: added to the norms that are divided by.

    Reference:
      arXiv 2410.01623, equations 9 and 10.
      Differs from the published code in taking the true complement G − P a under any scale.

    Example:
      >>> import lowrank_optax as lro
      >>> lro.residuals.norm_scaling().growth_limit
      1.01
    """
    return NormScaling(growth_limit, eps)

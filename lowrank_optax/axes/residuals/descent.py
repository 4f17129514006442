"""Residuals that descend along what is left over, or along its sign."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.residuals.base import Residual, Step


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

"""Residuals that scale the gradient vector by vector, as far as its growth allows."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.projections.base import Shape
from lowrank_optax.axes.residuals.base import Residual, Step
from lowrank_optax.linalg.arguments import check_fraction
from lowrank_optax.linalg.precision import wide_dtype


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
        S = _ratio(step, -2, self.eps) * step.outside()
        shrink, norm = _limited(S, state, self.growth_limit, self.eps)
        return step.projection.synthesize(step.subspace.embed(step.u) + shrink * S), norm

    def check(self, parts: Any) -> None:
        """A norm inside the subspace must belong to one outside."""
        _check_one_sided(self, parts)


@axis_value("scale", "growth_limit", "eps")
class GradientScaling(Residual):
    """Scale the whole gradient; build with `residuals.gradient_scaling`."""

    by: str
    scale: Any
    growth_limit: Any
    eps: Any

    def init(self, shape: Shape, dtype: Any) -> Float[Array, "*batch"]:
        """Norm of the last step; 0 before the first."""
        return jnp.zeros(shape[:-2], wide_dtype(dtype))

    def finish(self, step: Step, state: Any) -> tuple[Float[Array, "*batch n m"], Any]:
        """scale_engine · scale · φ G / L."""
        S = _ratio(step, -2 if self.by == "channel" else (-2, -1), self.eps) * step.A
        shrink, norm = _limited(S, state, self.growth_limit, self.eps)
        shrink = shrink * jnp.asarray(self.scale * step.scale, S.dtype)
        return shrink * step.projection.synthesize(S), norm

    def check(self, parts: Any) -> None:
        """A norm inside the subspace must belong to one of the gradient."""
        _check_one_sided(self, parts)


@axis_value("decay", "scale", "growth_limit", "eps")
class ColumnScaling(Residual):
    """Step along it, whitened column by column; build with `residuals.column_scaling`."""

    decay: Any
    scale: Any
    growth_limit: Any
    eps: Any

    def init(self, shape: Shape, dtype: Any) -> tuple[Array, Array]:
        """The energies p (..., m), and the norm of the last residual step; zeros."""
        wide = wide_dtype(dtype)
        return jnp.zeros((*shape[:-2], shape[-1]), wide), jnp.zeros(shape[:-2], wide)

    def finish(self, step: Step, state: Any) -> tuple[Float[Array, "*batch n m"], Any]:
        """scale_engine · (P u + scale · C / L)."""
        p, last = state
        E = step.outside()
        energy = jnp.sum(jnp.square(E), axis=-2)
        p = (self.decay * p + (1 - self.decay) * energy).astype(p.dtype)
        left = E.shape[-2] - step.a.shape[-2]
        C = left**0.5 * E / jnp.sqrt(p + self.eps)[..., None, :].astype(E.dtype)
        shrink, norm = _limited(C, last, self.growth_limit, self.eps)
        return step.with_rest(shrink * C, self.scale), (p, norm)

    def check(self, parts: Any) -> None:
        """The columns of m must be one matrix' own."""
        _check_one_sided(self, parts)


def _ratio(step: Step, axes: Any, eps: Any) -> Float[Array, "*batch k l"]:
    """φ: how much longer the inner optimizer made every vector along the axes."""
    norms = lambda x: jnp.linalg.norm(x, axis=axes, keepdims=True)
    return norms(step.direction) / (norms(step.a) + eps)


def _limited(
    S: Float[Array, "*batch n m"], last: Float[Array, "*batch"], growth_limit: Any, eps: Any
) -> tuple[Float[Array, "*batch 1 1"], Float[Array, "*batch"]]:
    """1 / L that keeps ‖S‖ / L below `growth_limit` times the last one, and ‖S‖ / L."""
    norm = jnp.sqrt(jnp.sum(jnp.square(S), axis=(-2, -1)))
    L = jnp.where(last > 0, jnp.maximum(norm / (last + eps) / growth_limit, 1.0), 1.0)
    return 1 / L[..., None, None], norm / L


def _check_one_sided(residual: Residual, parts: Any) -> None:
    if "m" in parts.projection.whole:
        raise ValueError(
            f"the residual {residual} compares what is inside and outside along an axis that is "
            f"not compressed, but the projection {parts.projection} compresses both; use a "
            "one-sided projection, or another residual such as residuals.error_feedback()."
        )


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


def gradient_scaling(
    by: str = "channel", scale: Any = 1.0, growth_limit: Any = 1.01, eps: Any = 1e-8
) -> Residual:
    """Take no low-rank step, but the whole gradient, scaled as the inner optimizer scales (APOLLO).

    φ_i = ‖u_i‖ / (‖a_i‖ + eps) for every i of the m, or one φ for the matrix; the step is
    scale_engine · scale · φ G, scaled back to the limit where ‖φ G‖ grew by more than that.

    Args:
      by: "channel" for a factor per vector of the compressed axis, "tensor" for one per matrix.
      scale: √α, factor of the step.
      growth_limit: γ, the largest growth of ‖φ G‖ in one step.
      eps: added to the norms that are divided by.

    Raises:
      ValueError: if `by` is unknown.

    Reference:
      arXiv 2412.05270 (APOLLO).

    Example:
      >>> import lowrank_optax as lro
      >>> lro.residuals.gradient_scaling("tensor").by
      'tensor'
    """
    if by not in ("channel", "tensor"):
        raise ValueError(f"by={by!r} is unknown; use 'channel' or 'tensor'.")
    return GradientScaling(by, scale, growth_limit, eps)


def column_scaling(
    decay: Any = 0.9, scale: Any = 0.4, growth_limit: Any = 1.01, eps: Any = 1e-16
) -> Residual:
    """Step along the part outside, each of its m vectors over the root of its mean energy (Alice).

    p ← decay · p + (1 − decay) Σ_n E² with E = G − P a; C = √(n − r) E diag(p + eps)^(−1/2), scaled
    back to the limit where ‖C‖ grew by more; the step is scale_engine · (P u + scale · C).

    Args:
      decay: β of the energies, from zero and without bias correction.
      scale: α_c, of this part's step relative to the subspace's.
      growth_limit: γ, the largest growth of ‖C‖ in one step.
      eps: added to the energies.

    Raises:
      ValueError: if `decay` lies outside [0, 1].

    Reference:
      arXiv 2502.07752 (Alice), its compensation.

    Example:
      >>> import lowrank_optax as lro
      >>> lro.residuals.column_scaling().scale
      0.4
    """
    check_fraction("decay", decay)
    return ColumnScaling(decay, scale, growth_limit, eps)

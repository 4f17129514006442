"""Fira."""

from typing import Any

from lowrank_optax.axes import projections, refresh, residuals, selection
from lowrank_optax.optimizers._build import Recipe, in_subspace, optimizer
from lowrank_optax.transforms import scale_by_adam_bias_correction, scale_by_uncorrected_adam


@optimizer
def fira(
    rank: int | float = 128,
    *,
    projection: str | projections.Projection = "svd",
    select: str | selection.Selection | None = None,
    update_interval: refresh.UpdateInterval = 200,
    scale: Any = 0.25,
    growth_limit: Any = 1.01,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    stagger: bool = False,
    mu_dtype: Any = None,
) -> Recipe:
    """Fira: Adam inside a subspace, and outside it the gradient scaled like Adam scales the inside.

    a = Pᵀ G; u = m / (√v + ε), Adam without bias correction; S = φ (G − P a) with
    φ_i = ‖u_i‖ / ‖a_i‖ for every i of the m, limited in its growth;
    W ← (1 − η λ) W − η √(1 − β₂ᵗ) / (1 − β₁ᵗ) (scale · P u + S).

    Args:
      {learning_rate}
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      projection: "svd", "dct" or another name of `projections.by_name`, or a projection, whose own
        rank and selection then hold.
      select: how the projection selects; None for its default.
      update_interval: T, refreshing where count % T == 0, or a schedule as for `scale_by_low_rank`.
      scale: α, factor of the step inside the subspace.
      growth_limit: γ, the largest growth of ‖S‖ from one step to the next.
      b1, b2, eps: of Adam.
      stagger: spread the matrices' refreshes over the interval.
      mu_dtype: of the first moment, as for `scale_by_low_rank`.
      {shared}

    Cost:
      2 m r + n r numbers of state for an m × n matrix, n the compressed side (2 m r and r indices
      in a fixed basis). A step takes 3 m n r multiplications, for a, P a and P u, or some 6 m n √n
      for two DCTs; every T steps an SVD, far dearer than a step.

    Reference:
      arXiv 2410.01623, algorithm 1.
      Differs from the published code in taking the true complement G − P a for any scale, and in
      decaying the weights with the update, not after it.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> tx = lro.fira(1e-3, rank=2, projection="dct", select="importance")
      >>> params = {"w": jnp.ones((4, 8))}
      >>> tx.update(params, tx.init(params))[0]["w"].shape
      (4, 8)
    """
    return in_subspace(
        scale_by_uncorrected_adam(b1, b2, eps),
        projections.by_name(projection, rank, select),
        update_interval=update_interval,
        stagger=stagger,
        residual=residuals.norm_scaling(growth_limit),
        scale=scale,
        then=scale_by_adam_bias_correction(b1, b2),
        mu_dtype=mu_dtype,
    )

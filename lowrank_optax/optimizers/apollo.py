"""APOLLO and APOLLO-Mini: the gradient, scaled as Adam in a random subspace scales."""

from typing import Any

from lowrank_optax.axes import projections, residuals
from lowrank_optax.axes.refresh import UpdateInterval
from lowrank_optax.optimizers._build import Recipe, in_subspace, optimizer
from lowrank_optax.transforms import resolve


@optimizer
def apollo(
    rank: int | float = 0.25,
    *,
    by: str = "channel",
    update_interval: UpdateInterval = 200,
    scale: Any = 1.0,
    growth_limit: Any = 1.01,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    mu_dtype: Any = None,
) -> Recipe:
    """APOLLO: each channel of the gradient as long as Adam would make it in a random subspace.

    a = √(n/r) Pᵀ G with P random and orthonormal; φ_i = ‖Adam(a)_i‖ / ‖a_i‖ for every channel i;
    W ← (1 − η λ) W − η · scale · φ G, limited in its growth.

    Args:
      {learning_rate}
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      by: "channel", or "tensor" for one factor per matrix.
      update_interval: T, refreshing where count % T == 0, or a schedule as for `scale_by_low_rank`.
      scale: factor of the step, √α of the paper.
      growth_limit: γ, the largest growth of the step's norm.
      b1, b2, eps: of Adam.
      mu_dtype: of the first moment, as for `scale_by_low_rank`.
      {shared}

    Cost:
      2 m r + n r numbers of state for an m × n matrix, n the compressed side. A step takes m n r
      multiplications, for a: nothing is lifted. Every T steps a QR decomposition of n × r numbers.

    Reference:
      arXiv 2412.05270.
      Differs in a random orthonormal P scaled by √(n/r), where the paper draws normal numbers of
      variance 1/r; and from the published code in limiting the growth of a step that has Adam's
      bias corrections, which there follow the limit.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> params = {"w": jnp.ones((4, 8))}
      >>> tx = lro.apollo(0.01)
      >>> tx.update(params, tx.init(params))[0]["w"].shape
      (4, 8)
    """
    # Adam's direction does not change with the factor √(n/r) of a, so φ has its inverse.
    return in_subspace(
        resolve("adam", b1=b1, b2=b2, eps=eps),
        projections.random(rank),
        update_interval=update_interval,
        residual=residuals.gradient_scaling(by, scale, growth_limit),
        scale=lambda spec: (spec.rank / spec.n) ** 0.5,
        mu_dtype=mu_dtype,
    )


@optimizer
def apollo_mini(
    *,
    update_interval: UpdateInterval = 200,
    scale: Any = 128**0.5,
    growth_limit: Any = 1.01,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    mu_dtype: Any = None,
) -> Recipe:
    """APOLLO-Mini: `apollo` of rank 1, with one factor per matrix.

    Args:
      {learning_rate}
      update_interval, scale, growth_limit, b1, b2, eps: as for `apollo`.
      mu_dtype: as for `apollo`; in integers every entry of the one row has a scale of its own.
      {shared}

    Cost:
      2 m + n numbers of state for an m × n matrix, n the compressed side. A step takes m n
      multiplications: what dominates are passes over the gradient.

    Reference:
      arXiv 2412.05270.
      Differs as `apollo` does; `scale` is √128, as published.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> params = {"w": jnp.ones((4, 8))}
      >>> tx = lro.apollo_mini(0.01)
      >>> tx.update(params, tx.init(params))[0]["w"].shape
      (4, 8)
    """
    return apollo.recipe(
        1,
        by="tensor",
        update_interval=update_interval,
        scale=scale,
        growth_limit=growth_limit,
        b1=b1,
        b2=b2,
        eps=eps,
        mu_dtype=mu_dtype,
    )

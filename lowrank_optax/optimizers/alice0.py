"""Alice-0."""

from typing import Any

from lowrank_optax.axes import projections, residuals
from lowrank_optax.axes.refresh import UpdateInterval
from lowrank_optax.axes.selection import Selection, hybrid
from lowrank_optax.optimizers._build import Recipe, in_subspace, optimizer
from lowrank_optax.transforms import scale_by_uncorrected_adam


@optimizer
def alice0(
    rank: int | float = 0.25,
    *,
    select: str | Selection | None = None,
    update_interval: UpdateInterval = 200,
    scale: Any = 0.3,
    compensation: Any = 0.4,
    growth_limit: Any = 1.01,
    b1: Any = 0.9,
    b2: Any = 0.9,
    eps: Any = 1e-8,
    method: str = "auto",
    mu_dtype: Any = None,
) -> Recipe:
    """Alice-0: Adam in a subspace that is partly random, and the rest whitened column by column.

    P = the leading left singular vectors of G and random ones of the others; a = Pᵀ G;
    W ← (1 − η λ) W − η α (P m / (√v + ε) + α_c C), with C as in `residuals.column_scaling`.

    Args:
      {learning_rate}
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      select: how singular vectors are chosen; None for `hybrid(0.3125)`: 40 of 128 are the leading
        ones, as published, the others random.
      update_interval: T, refreshing where count % T == 0, or a schedule as for `scale_by_low_rank`.
      scale: α.
      compensation: α_c.
      growth_limit: γ, the largest growth of ‖C‖.
      b1, b2, eps: of Adam, without bias correction; b1 is that of C's energies too.
      method: of the singular vectors, as for `projections.svd`.
      mu_dtype: of the first moment, as for `scale_by_low_rank`.
      {shared}

    Cost:
      2 m r + n r + m numbers of state for an m × n matrix, n the compressed side. A step takes
      3 m n r multiplications, for a, P a and P u; every T steps an SVD, far dearer than a step.

    Reference:
      arXiv 2502.07752, Alice without tracking (β₃ = 0).
      Differs in the order of the random complement: uniform among the other singular vectors.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> params = {"w": jnp.ones((4, 8))}
      >>> tx = lro.alice0(0.02)
      >>> tx.update(params, tx.init(params))[0]["w"].shape
      (4, 8)
    """
    return in_subspace(
        scale_by_uncorrected_adam(b1, b2, eps),
        projections.svd(rank, select or hybrid(0.3125), method=method),
        update_interval=update_interval,
        residual=residuals.column_scaling(b1, compensation, growth_limit),
        scale=scale,
        mu_dtype=mu_dtype,
    )

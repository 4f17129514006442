"""FRUGAL."""

from typing import Any

from lowrank_optax.axes import projections, refresh, residuals, selection
from lowrank_optax.optimizers._build import Recipe, in_subspace, optimizer
from lowrank_optax.transforms import Inner, resolve


@optimizer
def frugal(
    rank: int | float = 0.25,
    *,
    projection: str | projections.Projection = "svd",
    select: str | selection.Selection | None = None,
    update_interval: refresh.UpdateInterval = 200,
    inactive_scale: Any = 1.0,
    inner: Inner = "adam",
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    stagger: bool = False,
    mu_dtype: Any = None,
) -> Recipe:
    """FRUGAL: the inner optimizer inside a subspace, sign descent outside it.

    Every T steps the subspace P is chosen and the inner optimizer starts anew; a = Pᵀ G;
    W ← (1 − η λ) W − η P inner(a) − η · inactive_scale · sign(G − P a).

    Args:
      {learning_rate}
      rank: r as an int, or the density: a fraction in (0, 1] of the compressed dimension.
      projection: "svd", "dct", "random", "identity" or another name of `projections.by_name`, or a
        projection, whose own rank and selection then hold.
      select: how the projection selects; None for its default.
      update_interval: T, refreshing where count % T == 0, or a schedule as for `scale_by_low_rank`.
      inactive_scale: step size of the sign descent relative to η.
      inner: "adam", "lion", "sgd", … or any optax transformation.
      b1, b2, eps: of the inner optimizer.
      stagger: spread the matrices' refreshes over the interval.
      mu_dtype: of the first moment, as for `scale_by_low_rank`.
      {shared}

    Cost:
      2 m r + n r numbers of state for an m × n matrix, n the compressed side (2 m r and r indices
      in a fixed basis). A step takes 3 m n r multiplications, for a, P a and P u, or m n r and some
      6 m n √n for two DCTs; every T steps an SVD, far dearer than a step.

    Reference:
      arXiv 2411.07837, algorithm 1.
      As published, with Adam's bias corrections beginning anew at every refresh too.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> tx = lro.frugal(1e-3, projection="dct", inner="lion")
      >>> params = {"w": jnp.ones((4, 8))}
      >>> tx.update(params, tx.init(params))[0]["w"].shape
      (4, 8)
    """
    return in_subspace(
        resolve(inner, b1=b1, b2=b2, eps=eps),
        projections.by_name(projection, rank, select),
        update_interval=update_interval,
        stagger=stagger,
        transport="reset",
        residual=residuals.sign_descent(inactive_scale),
        mu_dtype=mu_dtype,
    )

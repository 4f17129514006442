"""GaLore, its importance-sampled form I3S, and GoLore."""

from typing import Any

from lowrank_optax.axes import projections, refresh, selection
from lowrank_optax.axes.transports import moves_first_moment
from lowrank_optax.optimizers._build import Recipe, in_subspace, optimizer
from lowrank_optax.transforms import Inner, resolve, scale_by_published_adam


@optimizer
def galore(
    rank: int | float = 128,
    *,
    update_interval: refresh.UpdateInterval = 200,
    scale: Any = 0.25,
    select: str | selection.Selection = "top",
    method: str = "auto",
    inner: Inner = "adam",
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    stagger: bool = False,
    mu_dtype: Any = None,
) -> Recipe:
    """GaLore: the inner optimizer on the gradient's leading singular vectors, kept for T steps.

    Every T steps P = the r leading singular vectors of G on its compressed side; a = Pᵀ G;
    W ← (1 − η λ) W − η · scale · P inner(a). The moments stay as they are when P changes.

    Args:
      {learning_rate}
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      update_interval: T, refreshing where count % T == 0, or a schedule as for `scale_by_low_rank`.
      scale: factor of the low-rank step.
      select: "top"; "importance" samples singular vectors in proportion to their singular values
        (I3S); "hybrid" takes the best and samples the rest, and rotates the first moment,
        where that is a plain array.
      method: of the SVD, "auto", "exact", "gram" or "randomized", as for `projections.svd`.
      inner: "adam" (with eps added to the uncorrected second moment, as published), "adam8bit",
        "adam_mini", "adafactor", "lion", "sgd", or any optax transformation.
      b1, b2, eps: of the inner optimizer.
      stagger: spread the matrices' refreshes over the interval.
      mu_dtype: of the first moment, as for `scale_by_low_rank`.
      {shared}

    Cost:
      2 m r + n r numbers of state for an m × n matrix, n the compressed side. A step takes 2 m n r
      multiplications, for a and the step; every T steps an SVD, far dearer than a step, which
      `method="gram"` or "randomized" makes cheaper.

    Reference:
      arXiv 2403.03507, algorithm 2; I3S for `select="importance"`.
      Differs from the published code in decaying the weights with the update, not after it.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> tx = lro.galore(1e-2, rank=2, select="importance")
      >>> params = {"w": jnp.ones((4, 8))}
      >>> tx.update(params, tx.init(params))[0]["w"].shape
      (4, 8)
    """
    chosen = selection.resolve(select)
    transformation = (
        scale_by_published_adam(b1, b2, eps)
        if inner == "adam"
        else resolve(inner, b1=b1, b2=b2, eps=eps)
    )
    hybrid = isinstance(chosen, selection.Hybrid)
    moves = hybrid and moves_first_moment(transformation)
    return in_subspace(
        transformation,
        projections.svd(rank, chosen, method=method),
        update_interval=update_interval,
        stagger=stagger,
        transport="rotate_first" if moves else "keep",
        scale=scale,
        mu_dtype=mu_dtype,
    )


@optimizer
def golore(
    rank: int | float = 128,
    *,
    update_interval: refresh.UpdateInterval = 200,
    random_after: Any = 0,
    scale: Any = 0.25,
    inner: Inner = "adam",
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    stagger: bool = False,
    mu_dtype: Any = None,
) -> Recipe:
    """GoLore: GaLore whose subspace is random, at once or once the gradient is mostly noise.

    Every T steps P = the leading singular vectors before step `random_after`, and a uniformly
    random orthonormal basis from then on; the first moment is expressed in the new basis.

    Args:
      {learning_rate}
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      update_interval: T, refreshing where count % T == 0.
      random_after: first step from which a refresh draws at random; 0 for always.
      scale: factor of the low-rank step.
      inner: "adam", "sgd" (momentum), "lion", or any optax transformation with a first moment as a
        plain array (which "adam8bit" and "adafactor" do not have).
      b1, b2, eps: of the inner optimizer.
      stagger: spread the matrices' refreshes over the interval.
      mu_dtype: of the first moment, as for `scale_by_low_rank`.
      {shared}

    Cost:
      2 m r + n r numbers of state for an m × n matrix, n the compressed side. A step takes 2 m n r
      multiplications, for a and the step; every T steps a QR decomposition of n × r numbers, and
      (m + n) r² multiplications to move the moment; before `random_after` an SVD.

    Reference:
      arXiv 2410.11289, algorithm 1.
      Differs from the published code in keeping the first moment that a refresh moved, which is
      used once and lost there; in Adam's eps, which there is added to the uncorrected second
      moment; and in decaying the weights with the update, not after it.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> tx = lro.golore(1e-2, rank=2, inner="sgd")
      >>> params = {"w": jnp.ones((4, 8))}
      >>> tx.update(params, tx.init(params))[0]["w"].shape
      (4, 8)
    """
    draws = projections.random(rank)
    always = isinstance(random_after, int) and random_after == 0
    return in_subspace(
        resolve(inner, b1=b1, b2=b2, eps=eps),
        draws if always else projections.switch(projections.svd(rank), draws, random_after),
        update_interval=update_interval,
        stagger=stagger,
        transport="rotate_first",
        scale=scale,
        mu_dtype=mu_dtype,
    )

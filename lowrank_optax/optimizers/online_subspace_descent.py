"""Online Subspace Descent."""

from typing import Any

import optax

from lowrank_optax.axes import projections, refresh
from lowrank_optax.optimizers._build import Recipe, in_subspace, optimizer
from lowrank_optax.transforms import Inner, resolve, scale_by_published_adam, scale_by_unsigned_lion


@optimizer
def online_subspace_descent(
    rank: int | float = 128,
    *,
    projection_optimizer: optax.GradientTransformation | None = None,
    penalty: Any = 0.0,
    scale: Any = 1.0,
    inner: Inner = "adam",
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    mu_dtype: Any = None,
) -> Recipe:
    """Online Subspace Descent: the subspace moves by online PCA at every step, with no SVD.

    P starts as the leading singular vectors of the first gradient; a = Pᵀ G;
    W ← (1 − η λ) W − η · scale · P inner(a); then P takes one step of its own optimizer on
    ‖Ĝ − P Pᵀ Ĝ‖² + λ_P ‖Pᵀ P − I‖² with Ĝ = G / ‖G‖.

    Args:
      {learning_rate}
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      projection_optimizer: optax optimizer of P, learning rate included; None for AdamW at 1/200.
      penalty: λ_P.
      scale: factor of the low-rank step; without effect for "lion", before whose sign it is, as
        published.
      inner: "adam" (with eps added to the uncorrected second moment, as published); "lion", whose
        sign is taken after projecting back, as published; "adafactor", "adam8bit", … or any optax
        transformation.
      b1, b2, eps: of the inner optimizer.
      mu_dtype: of the first moment, as for `scale_by_low_rank`.
      {shared}

    Cost:
      2 m r + 3 n r numbers of state for an m × n matrix, n the compressed side. A step takes
      3 m n r multiplications, for a, the gradient in P and the step, and (m + 4 n) r² for the rest
      of that gradient; the first step an SVD.

    Reference:
      arXiv 2408.12857, algorithm 1.
      Differs from the published code in decaying the weights with the update, not after it, and in
      keeping the step size of P apart from the learning rate's schedule.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import lowrank_optax as lro
      >>> tx = lro.online_subspace_descent(1e-3, rank=2, projection_optimizer=optax.sgd(0.1))
      >>> params = {"w": jnp.ones((4, 8))}
      >>> tx.update(params, tx.init(params))[0]["w"].shape
      (4, 8)
    """
    # What the published code does differently from the optimizers of the same names.
    if inner == "adam":
        direction = scale_by_published_adam(b1, b2, eps)
    elif inner == "lion":
        direction = scale_by_unsigned_lion(b1, b2)
    else:
        direction = resolve(inner, b1=b1, b2=b2, eps=eps)
    return in_subspace(
        direction,
        projections.online_pca(rank, optimizer=projection_optimizer, penalty=penalty),
        update_interval=refresh.Once(),
        scale=scale,
        then=optax.scale_by_sign() if inner == "lion" else None,
        mu_dtype=mu_dtype,
    )

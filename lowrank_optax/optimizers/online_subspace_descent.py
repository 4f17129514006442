"""Online Subspace Descent."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lowrank_optax.axes import projections
from lowrank_optax.axes.refresh import Once
from lowrank_optax.core.dimension_numbers import DimensionNumbers
from lowrank_optax.core.low_rank import scale_by_low_rank
from lowrank_optax.optimizers._build import optimizer
from lowrank_optax.transforms import Inner, resolve, scale_by_published_adam, scale_by_unsigned_lion


def online_subspace_descent(
    learning_rate: optax.ScalarOrSchedule,
    rank: int | float = 128,
    *,
    projection_optimizer: optax.GradientTransformation | None = None,
    penalty: Any = 0.0,
    scale: Any = 1.0,
    inner: Inner = "adam",
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    mask: Any = None,
    dimension_numbers: DimensionNumbers = None,
    fallback: optax.GradientTransformation | None = None,
    seed: Any = 0,
    compress: str = "smallest",
    zero_axis: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Online Subspace Descent: the subspace moves by online PCA at every step, with no SVD.

    P starts as the leading singular vectors of the first gradient; a = G P;
    W ← (1 − η λ) W − η · scale · inner(a) Pᵀ; then P takes one step of its own optimizer on
    ‖Ĝ − Ĝ P Pᵀ‖² + λ_P ‖Pᵀ P − I‖² with Ĝ = G / ‖G‖.

    Args:
      learning_rate: η, a number or a schedule.
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      projection_optimizer: optax optimizer of P, learning rate included; None for AdamW at 1/200.
      penalty: λ_P.
      scale: factor of the low-rank step.
      inner: "adam" (with eps added to the uncorrected second moment, as published); "lion", whose
        sign is taken after projecting back, as published; "adafactor", "adam8bit", … or any optax
        transformation.
      b1, b2, eps: of the inner optimizer.
      weight_decay, mask, dimension_numbers, fallback, seed, compress, zero_axis: as
        for `trion`.

    Raises:
      TypeError, ValueError: naming the argument, or the parameter with its shape.

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
    published = {
        "adam": (scale_by_published_adam(b1, b2, eps), optax.identity()),
        "lion": (scale_by_unsigned_lion(b1, b2), sign()),
    }
    if isinstance(inner, str) and inner in published:
        direction, after = published[inner]
    else:
        direction, after = resolve(inner, b1=b1, b2=b2, eps=eps), optax.identity()
    return optimizer(
        lambda **numbers: optax.chain(
            scale_by_low_rank(
                direction,
                projections.online_pca(rank, optimizer=projection_optimizer, penalty=penalty),
                update_interval=Once(),
                scale=scale,
                compress=compress,
                seed=seed,
                **numbers,
            ),
            after,
        ),
        learning_rate,
        weight_decay=weight_decay,
        mask=mask,
        dimension_numbers=dimension_numbers,
        fallback=fallback,
        zero_axis=zero_axis,
    )


def sign() -> optax.GradientTransformation:
    """The sign of every entry.

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.optimizers.online_subspace_descent import sign
      >>> sign().update(jnp.array([-2.0, 3.0]), sign().init(None))[0].tolist()
      [-1.0, 1.0]
    """
    return optax.stateless(lambda updates, _: jax.tree.map(jnp.sign, updates))

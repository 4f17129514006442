"""Dion."""

import functools
from typing import Any

import optax

from lowrank_optax.core.dimension_numbers import DimensionNumbers
from lowrank_optax.optimizers._build import optimizer
from lowrank_optax.optimizers.orthonormal import scale_by_dion
from lowrank_optax.sharding.synchronise import resolve_sync


def dion(
    learning_rate: optax.ScalarOrSchedule,
    rank: int | float = 128,
    *,
    momentum: Any = 0.95,
    power_iters: int = 1,
    eps: Any = 1e-8,
    orthogonalize: str = "qr",
    shape_scale: str = "dion",
    weight_decay: Any = 0.0,
    mask: Any = None,
    dimension_numbers: DimensionNumbers = None,
    fallback: optax.GradientTransformation | None = None,
    momentum_dtype: Any = None,
    seed: Any = 0,
    compress: str = "smallest",
    zero_axis: Any = None,
    sync: str | None = None,
    sync_axis: str = "data",
) -> optax.GradientTransformationExtraArgs:
    """Dion: an orthonormalised low-rank step by one warm-started power iteration on the momentum.

    W ← (1 − η λ) W − η · scale · P Qᵀ; see `scale_by_dion`.

    Args:
      learning_rate: η, a number or a schedule.
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      momentum, power_iters, eps, orthogonalize, shape_scale, momentum_dtype: as for
        `scale_by_dion`.
      weight_decay, mask, dimension_numbers, fallback, seed, compress, zero_axis: as
        for `trion`.
      sync, sync_axis: as for `scale_by_dion`; the fallback averages whole gradients.

    Raises:
      TypeError, ValueError: naming the argument, or the parameter with its shape.

    Reference:
      arXiv 2504.05295, algorithm 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> tx = lro.dion(0.02, rank=2)
      >>> params = {"w": jnp.ones((4, 8))}
      >>> tx.update(params, tx.init(params))[0]["w"].shape
      (4, 8)
    """
    return optimizer(
        functools.partial(
            scale_by_dion,
            rank,
            momentum=momentum,
            power_iters=power_iters,
            eps=eps,
            orthogonalize=orthogonalize,
            shape_scale=shape_scale,
            momentum_dtype=momentum_dtype,
            seed=seed,
            compress=compress,
            sync=sync,
            sync_axis=sync_axis,
        ),
        learning_rate,
        weight_decay=weight_decay,
        mask=mask,
        dimension_numbers=dimension_numbers,
        fallback=fallback,
        zero_axis=zero_axis,
        sync_axis=resolve_sync(sync, sync_axis),
    )

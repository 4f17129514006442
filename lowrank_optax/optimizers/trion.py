"""Trion."""

import functools
from typing import Any

import optax

from lowrank_optax.core.dimension_numbers import DimensionNumbers
from lowrank_optax.optimizers._build import optimizer
from lowrank_optax.optimizers.orthonormal import NS_COEFFICIENTS, scale_by_trion
from lowrank_optax.sharding.synchronise import resolve_sync


def trion(
    learning_rate: optax.ScalarOrSchedule,
    rank: int | float = 128,
    *,
    momentum: Any = 0.95,
    residual_decay: Any = 1.0,
    norm: str = "l1",
    ns_steps: int = 5,
    ns_coeffs: Any = NS_COEFFICIENTS,
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
    """Trion: orthonormalised low-rank momentum in a DCT subspace chosen anew at every step.

    W ← (1 − η λ) W − η · scale · NewtonSchulz(b) Q[:, I]ᵀ, with b the r columns of largest norm of
    the momentum's DCT; see `scale_by_trion`.

    Args:
      learning_rate: η, a number or a schedule.
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      momentum, residual_decay, norm, ns_steps, ns_coeffs, shape_scale, momentum_dtype: as for
        `scale_by_trion`.
      weight_decay: λ, decoupled, multiplied by the learning rate.
      mask: tree or function of booleans: where to apply weight decay.
      dimension_numbers: which leaves are matrices, as for `matrix_specs`.
      fallback: optimizer of all other leaves; None for `optax.adamw` with the same learning rate,
        weight decay and mask.
      seed: of the random key, if any part is random.
      compress: which side to compress, as for `matrix_specs`.
      zero_axis: mesh axis, or several, over which all state is split where parameters are not
        (ZeRO-1), as for `scale_by_low_rank` and, for the fallback, `zero`.
      sync, sync_axis: as for `scale_by_trion`; the fallback averages whole gradients.

    Raises:
      TypeError, ValueError: naming the argument, or the parameter with its shape.

    Reference:
      arXiv 2505.17967, algorithm 1.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import lowrank_optax as lro
      >>> tx = lro.trion(learning_rate=0.02, rank=2)
      >>> params = {"w": jnp.ones((4, 8)), "b": jnp.ones(8)}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["w"].shape
      (4, 8)
    """
    return optimizer(
        functools.partial(
            scale_by_trion,
            rank,
            momentum=momentum,
            residual_decay=residual_decay,
            norm=norm,
            ns_steps=ns_steps,
            ns_coeffs=ns_coeffs,
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

"""LDAdamW."""

from typing import Any

import optax

from lowrank_optax.axes import projections, residuals
from lowrank_optax.axes.transports import RotateMoments
from lowrank_optax.core.dimension_numbers import DimensionNumbers
from lowrank_optax.core.low_rank import scale_by_low_rank
from lowrank_optax.optimizers._build import optimizer


def ldadamw(
    learning_rate: optax.ScalarOrSchedule,
    rank: int | float = 128,
    *,
    b1: Any = 0.908,
    b2: Any = 0.99,
    eps: Any = 1e-8,
    rho: Any = 0.908,
    error_feedback: bool | int | None = True,
    weight_decay: Any = 0.0,
    mask: Any = None,
    dimension_numbers: DimensionNumbers = None,
    fallback: optax.GradientTransformation | None = None,
    seed: Any = 0,
    compress: str = "smallest",
    zero_axis: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """LDAdamW: Adam in a subspace that follows momentum and gradient by a power iteration per step.

    A = G + E; P = one block power iteration on ρ m̂ Pᵀ + (1 − ρ) A from the last P; Adam's moments
    are rotated as the statistics that they estimate; E ← A − a Pᵀ + β₁/(1 − β₁) (m Pᵀ_previous −
    n Pᵀ); W ← (1 − η λ) W − η Adam(a) Pᵀ.

    Args:
      learning_rate: η, a number or a schedule.
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      b1, b2, eps: of Adam.
      rho: ρ, the weight of the momentum in the power iteration.
      error_feedback: True or 32 for E in computing precision, 8 or 4 for E in that many bits, False
        or None for none.
      weight_decay, mask, dimension_numbers, fallback, seed, compress, zero_axis: as
        for `trion`.

    Raises:
      TypeError, ValueError: naming the argument, or the parameter with its shape.

    Reference:
      arXiv 2410.16103, algorithm 1.
      Differs from the published code in compressing the in side of a square matrix
      (`compress="out"` does what it does).

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> tx = lro.ldadamw(1e-3, rank=2)
      >>> params = {"w": jnp.ones((4, 8))}
      >>> tx.update(params, tx.init(params))[0]["w"].shape
      (4, 8)
    """
    bits = 32 if error_feedback is True else error_feedback
    residual = residuals.error_feedback(bits, moment_decay=b1) if bits else residuals.discard()
    return optimizer(
        lambda **numbers: scale_by_low_rank(
            optax.scale_by_adam(b1, b2, eps),
            projections.power_iteration(rank, rho=rho, b1=b1),
            transport=RotateMoments(b1, b2),
            residual=residual,
            compress=compress,
            seed=seed,
            **numbers,
        ),
        learning_rate,
        weight_decay=weight_decay,
        mask=mask,
        dimension_numbers=dimension_numbers,
        fallback=fallback,
        zero_axis=zero_axis,
    )

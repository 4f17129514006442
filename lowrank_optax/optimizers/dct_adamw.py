"""DCT-AdamW."""

import functools
from typing import Any

import optax

from lowrank_optax.axes import projections, residuals
from lowrank_optax.axes.refresh import UpdateInterval
from lowrank_optax.core.dimension_numbers import DimensionNumbers
from lowrank_optax.core.low_rank import scale_by_low_rank
from lowrank_optax.linalg.arguments import check_fraction
from lowrank_optax.optimizers._build import optimizer


def dct_adamw(
    learning_rate: optax.ScalarOrSchedule,
    rank: int | float = 128,
    *,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    update_interval: UpdateInterval = 1,
    rotate: bool = True,
    error_feedback: int | None = 8,
    norm: str = "l1",
    weight_decay: Any = 0.0,
    mask: Any = None,
    dimension_numbers: DimensionNumbers = None,
    fallback: optax.GradientTransformation | None = None,
    seed: Any = 0,
    compress: str = "smallest",
    zero_axis: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """DCT-AdamW: AdamW on the r DCT columns that hold most of the gradient, with error feedback.

    A = G + E; on a refresh I = the r columns of DCT(A) of largest norm, and the moments move with
    their columns; a = DCT(A)[:, I]; E ← A − a Q[:, I]ᵀ; W ← (1 − η λ) W − η Adam(a) Q[:, I]ᵀ.

    Args:
      learning_rate: η, a number or a schedule.
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      b1, b2, eps: of Adam.
      update_interval: T to refresh at the first step and at every T-th, counting steps from 1 as
        the published code does (so the first interval is one step shorter); or a function of the
        count of steps already taken that returns a boolean.
      rotate: whether a column chosen again carries its moments along; if not, moments stay in
        their slots (slots are in ascending order of the columns' indices).
      error_feedback: bits in which E is stored: 8, 4, or 32; None for no error feedback.
      norm: "l1" or "l2", the norm that ranks columns.
      weight_decay: λ, decoupled, multiplied by the learning rate.
      mask: tree or function of booleans: where to apply weight decay.
      dimension_numbers: which leaves are matrices, as for `matrix_specs`.
      fallback: optimizer of all other leaves; None for `optax.adamw` with the same learning rate,
        weight decay and mask.
      seed: of the random key, if any part is random.
      compress: which side to compress, as for `matrix_specs`.
      zero_axis: mesh axis, or several, over which all state is split, as for `trion`.

    Raises:
      TypeError, ValueError: naming the argument, or the parameter with its shape.

    Reference:
      arXiv 2505.17967, algorithm 2.
      Differs from the published code in its quantisers, which lose most of their levels there, and
      in moving the moments by matching indices instead of a product that overwrites its operand.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import lowrank_optax as lro
      >>> tx = lro.dct_adamw(1e-3, rank=0.5, error_feedback=None)
      >>> params = {"w": jnp.ones((4, 8)), "b": jnp.ones(8)}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["w"].shape
      (4, 8)
    """
    check_fraction("b1", b1)
    check_fraction("b2", b2)
    residual = (
        residuals.discard() if error_feedback is None else residuals.error_feedback(error_feedback)
    )
    return optimizer(
        functools.partial(
            scale_by_low_rank,
            optax.scale_by_adam(b1, b2, eps),
            projections.dct(rank, select=norm),
            update_interval=_first_and_every(update_interval),
            transport="rotate" if rotate else "keep",
            residual=residual,
            seed=seed,
            compress=compress,
        ),
        learning_rate,
        weight_decay=weight_decay,
        mask=mask,
        dimension_numbers=dimension_numbers,
        fallback=fallback,
        zero_axis=zero_axis,
    )


def _first_and_every(update_interval: Any) -> Any:
    """The published DCT-AdamW's refresh rule: the first step, then steps T, 2T, … from 1."""
    if not isinstance(update_interval, int) or update_interval <= 1:
        return update_interval
    return lambda count: (count == 0) | ((count + 1) % update_interval == 0)

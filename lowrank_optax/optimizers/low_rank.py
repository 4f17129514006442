"""An optimizer put together from the axes by name."""

from collections.abc import Callable
from typing import Any

from lowrank_optax.axes import projections, refresh, residuals, selection, transports
from lowrank_optax.optimizers._build import Recipe, in_subspace, optimizer
from lowrank_optax.transforms import Inner, resolve

RESIDUALS: dict[str, Callable[[], residuals.Residual]] = {
    "discard": residuals.discard,
    "sign_descent": residuals.sign_descent,
    "sgd": residuals.sgd,
    "norm_scaling": residuals.norm_scaling,
    "error_feedback": residuals.error_feedback,
    "momentum": residuals.momentum,
    "orthonormal": residuals.orthonormal,
    "sinkhorn": residuals.sinkhorn,
    "gradient_scaling": residuals.gradient_scaling,
    "column_scaling": residuals.column_scaling,
}


@optimizer
def low_rank(
    rank: int | float = 128,
    *,
    projection: str | projections.Projection = "dct",
    select: str | selection.Selection | None = None,
    update_interval: refresh.UpdateInterval = 1,
    stagger: bool = False,
    transport: str | transports.Transport = "keep",
    residual: str | residuals.Residual = "discard",
    inner: Inner = "adam",
    scale: Any = 1.0,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    mu_dtype: Any = None,
) -> Recipe:
    """Any combination of the five axes, by name or by object, as an optimizer.

    Args:
      {learning_rate}
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      projection, select: a name and a selection as for `projections.by_name`, or a projection.
      update_interval, stagger, transport, scale: as for `scale_by_low_rank`.
      residual: the name of a function of `residuals` without arguments, or what one returns.
      inner: "adam", "adam8bit", "adam_mini", "adafactor", "lion", "sgd", or any optax
        transformation.
      b1, b2, eps: of the inner optimizer.
      mu_dtype: of the first moment, as for `scale_by_low_rank`.
      {shared}

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> tx = lro.low_rank(1e-3, rank=2, select="importance", residual="norm_scaling")
      >>> params = {"w": jnp.ones((4, 8))}
      >>> tx.update(params, tx.init(params))[0]["w"].shape
      (4, 8)
    """
    if isinstance(residual, str) and residual not in RESIDUALS:
        raise ValueError(f"residual={residual!r} is unknown; use one of {tuple(RESIDUALS)}.")
    if transport == transports.RotateMoments.name:
        transport = transports.RotateMoments(b1, b2)
    return in_subspace(
        resolve(inner, b1=b1, b2=b2, eps=eps),
        projections.by_name(projection, rank, select),
        update_interval=update_interval,
        stagger=stagger,
        transport=transport,
        residual=RESIDUALS[residual]() if isinstance(residual, str) else residual,
        scale=scale,
        mu_dtype=mu_dtype,
    )

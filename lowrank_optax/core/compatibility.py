"""Values of different axes that cannot work together are refused at construction."""

import optax

from lowrank_optax.axes import refresh, residuals, transports
from lowrank_optax.axes.projections.base import Projection


def check(
    inner: optax.GradientTransformation,
    projection: Projection,
    schedule: refresh.Refresh,
    transport: transports.Transport,
    residual: residuals.Residual,
) -> None:
    """Raise if one value needs what another one does not have.

    Raises:
      ValueError: naming both, and what would work.
    """
    transport.check(inner)
    if projection.uses_moment:
        transports.require_fields(
            f"the projection {projection}",
            inner,
            ("mu", "count"),
            "let it follow the gradient alone",
        )
    if residual.uses_moment:
        transports.require_fields(
            f"the residual {residual}", inner, ("mu", "count"), "leave the moment out"
        )
    if residual.uses_rows and not projection.keeps_rows:
        raise ValueError(
            f"the residual {residual} scales rows, but the projection {projection} mixes them; use "
            "a one-sided projection, or another residual such as residuals.error_feedback()."
        )
    if projection.every_step_only and not schedule.every_step:
        raise ValueError(
            f"the projection {projection} carries its factor from step to step, so it cannot keep "
            "a subspace for several; use update_interval=1, or another projection such as "
            "projections.power_iteration()."
        )

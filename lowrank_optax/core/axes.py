"""What the engine is put together from, and the state that it keeps."""

from typing import Any, NamedTuple

import optax
from jaxtyping import Array, Int, PRNGKeyArray

from lowrank_optax.axes import refresh, residuals, transports
from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.projections.base import Projection
from lowrank_optax.core.stored import StoredMoment


class LowRankState(NamedTuple):
    """State of `scale_by_low_rank`; trees are like the parameters, masked where not a matrix."""

    count: Int[Array, ""]  # type: ignore[assignment]
    """Steps taken, int32; it saturates."""
    key: PRNGKeyArray
    """The random key, from which every step and matrix derives its own; it stays the same."""
    schedule: Any
    """What the refresh schedule remembers of every matrix, () for most."""
    basis: Any
    """Of every matrix int32 indices (..., r) of a fixed basis, or P (..., n, r)."""
    inner: Any
    """The inner optimizer's state for a tree of (..., r, m); where every matrix follows a
    schedule of its own, a tree of states."""
    residual: Any
    """What the residual stores of every matrix."""


@axis_value("projection", "schedule", "transport", "residual", "scale")
class Parts:
    """The inner optimizer and the values of the axes: a pytree of the numbers in these."""

    inner: optax.GradientTransformationExtraArgs
    projection: Projection
    schedule: refresh.Refresh
    transport: transports.Transport
    residual: residuals.Residual
    stored: StoredMoment
    scale: Any  # of the inner optimizer's direction: a number, or a function of the `MatrixSpec`

    def check(self) -> None:
        """Raise if one part needs what another one does not have, naming both."""
        for part in (self.transport, self.projection, self.residual, self.stored):
            part.check(self)

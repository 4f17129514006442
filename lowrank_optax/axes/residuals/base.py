"""The contract of the residual axis: what happens to the gradient outside the subspace.

A residual may add what it stored to the new coefficients before the subspace is chosen
(`accumulate`), and forms the step from the inner optimizer's direction and what was left over
(`finish`). All of it happens in the projection's domain (see `projections.base`).
"""

import abc
import dataclasses
from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray

from lowrank_optax.axes.projections.base import Basis, Projection
from lowrank_optax.core.matrices import MatrixSpec


@dataclasses.dataclass(frozen=True)
class Step:
    """What one matrix leaf knows when its step is formed.

    Attributes:
      projection: the projection.
      basis: its current basis.
      A: what was projected, in the domain, shape (..., m, n).
      a: its coordinates in the subspace, shape (..., m, r).
      direction: what the inner optimizer made of a, shape (..., m, r).
      u: the direction times the engine's scale.
      key: a random key, or None for a deterministic residual.
      moment_loss: what the transport of the first moment lost, m Pᵀ_previous − n Pᵀ in the domain,
        if the residual `uses_moment`.
    """

    projection: Projection
    basis: Basis
    A: Float[Array, "*batch m n"]
    a: Float[Array, "*batch p r"]
    direction: Float[Array, "*batch p r"]
    u: Float[Array, "*batch p r"]
    key: PRNGKeyArray | None
    moment_loss: Float[Array, "*batch m n"] | None = None

    def lifted(self) -> Float[Array, "*batch m n"]:
        """u Pᵀ in weight space."""
        return self.projection.lift(self.u, self.basis, self.A.shape[-2:])

    def reweighted(self, inside: Any, outside: Any) -> Float[Array, "*batch m n"]:
        """A with its part inside and its part outside the subspace scaled, in the domain."""
        return self.projection.reweight(self.A, self.a, self.basis, inside, outside)


class Residual(abc.ABC):
    """Contract of the residual axis. Hashable and stateless.

    Attributes:
      stochastic: whether `finish` uses the step's key.
      uses_moment: whether `finish` uses the step's `moment_loss`.
      uses_rows: whether `finish` compares rows of a with rows of A.
      stores_matrix: whether the state holds a matrix like A; then `finish` may not use A for the
        step itself but for the state only.
    """

    stochastic: bool = False
    uses_moment: bool = False
    uses_rows: bool = False
    stores_matrix: bool = False

    def init(self, spec: MatrixSpec, dtype: Any) -> Any:
        """State for one leaf: arrays, or () for none."""
        del spec, dtype
        return ()

    def accumulate(self, S: Float[Array, "*batch m n"], state: Any) -> Float[Array, "*batch m n"]:
        """What to project, given the new coefficients S and what is stored."""
        del state
        return S

    @abc.abstractmethod
    def finish(self, step: Step, state: Any) -> tuple[Float[Array, "*batch m n"], Any]:
        """The step in weight space, and the new state."""


@dataclasses.dataclass(frozen=True)
class Discard(Residual):
    """Drop it; build with `residuals.discard`."""

    def finish(self, step: Step, state: Any) -> tuple[Float[Array, "*batch m n"], Any]:
        """u Pᵀ."""
        return step.lifted(), state


def discard() -> Residual:
    """Drop the part outside the subspace, as GaLore does: the step is u Pᵀ.

    Example:
      >>> import lowrank_optax as lro
      >>> lro.residuals.discard()
      Discard()
    """
    return Discard()

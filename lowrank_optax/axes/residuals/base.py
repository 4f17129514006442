"""The contract of the residual axis: what happens to the gradient outside the subspace.

A residual may add what it stored to the new coefficients before the subspace is chosen
(`accumulate`), updates what it stores once that is known (`keep`), and forms the step from the
inner optimizer's direction and what was left over (`finish`). All of it happens in the
projection's domain (see `projections.base`).
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.projections.base import Projection, Shape, Subspace


@dataclasses.dataclass(frozen=True)
class Projected:
    """What one matrix leaf knows once its subspace is chosen."""

    subspace: Subspace  #: this step's
    A: Float[Array, "*batch n m"]  #: what was projected, in the domain
    a: Float[Array, "*batch r p"]  #: its coordinates in the subspace
    key: PRNGKeyArray  #: of this matrix and step
    previous: Subspace  #: that of the last step
    m: Float[Array, "*batch r p"] | None = None  #: the inner optimizer's first moment there
    moved: Float[Array, "*batch r p"] | None = None  #: and after its transport to this subspace

    def outside(self) -> Float[Array, "*batch n m"]:
        """A − P a, in the domain; zero where a P of full rank leaves its rounding errors only.

        Of a lower rank all of it is kept: what is fed back adds up over many steps.
        """
        E = self.subspace.reweight(self.A, self.a, 0.0, 1.0)
        if self.subspace.is_exact or min(self.a.shape[-2:]) < min(self.A.shape[-2:]):
            return E
        # Errors of sums as long as the longer side, which add up at random.
        tolerance = 16 * max(self.A.shape[-2:]) ** 0.5 * float(jnp.finfo(E.dtype).eps)
        largest = lambda x: jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)
        return jnp.where(largest(E) <= tolerance * largest(self.A), 0, E)


@dataclasses.dataclass(frozen=True)
class Step:
    """What one matrix leaf knows when its step is formed."""

    projection: Projection  #: whose subspace it is
    subspace: Subspace  #: this step's
    A: Float[Array, "*batch n m"]  #: what was projected, in the domain
    a: Float[Array, "*batch r p"]  #: its coordinates in the subspace
    direction: Float[Array, "*batch r p"]  #: what the inner optimizer made of a
    scale: Any  #: the engine's factor of the direction

    @property
    def u(self) -> Float[Array, "*batch r p"]:
        """The direction times the scale."""
        return self.direction * jnp.asarray(self.scale, self.direction.dtype)

    def lifted(self) -> Float[Array, "*batch n m"]:
        """P u in weight space; the scale joins what is done to every entry afterwards."""
        step = self.subspace.lift(self.direction)
        return step * jnp.asarray(self.scale, step.dtype)

    def outside(self) -> Float[Array, "*batch n m"]:
        """A − P a, in the domain; zero where it is no more than the rounding errors of P a.

        A rest that takes signs, or divides by lengths, would make whole steps of these, where a
        gradient's rank is no more than r.
        """
        E = self.subspace.reweight(self.A, self.a, 0.0, 1.0)
        if self.subspace.is_exact:
            return E
        # Column by column, as far as those of a are those of A: so nothing need be sent.
        axis = -2 if self.a.shape[-1] == self.A.shape[-1] else (-2, -1)
        largest = jnp.max(jnp.abs(self.a), axis=axis, keepdims=True)
        tolerance = 16 * self.A.shape[-2] ** 0.5 * float(jnp.finfo(E.dtype).eps)
        return jnp.where(jnp.abs(E) <= tolerance * largest, 0, E)

    def with_rest(
        self, rest: Float[Array, "*batch n m"], weight: Any
    ) -> Float[Array, "*batch n m"]:
        """scale · (P direction + weight · rest) in weight space, of a rest in the domain."""
        both = self.subspace.embed(self.direction) + jnp.asarray(weight, rest.dtype) * rest
        return self.projection.synthesize(both) * jnp.asarray(self.scale, both.dtype)


class Residual:
    """Contract of the residual axis. Stateless: what is stored comes and goes as arrays."""

    def init(self, shape: Shape, dtype: Any) -> Any:
        """What is stored for a leaf (..., n, m) of a dtype: arrays, or () for nothing."""
        del shape, dtype
        return ()

    def accumulate(
        self, S: Float[Array, "*batch n m"], state: Any, previous: Subspace
    ) -> Float[Array, "*batch n m"]:
        """What to project, given the new coefficients S, what is stored, and the last subspace."""
        del state, previous
        return S

    def ahead(
        self, A: Float[Array, "*batch n m"], S: Float[Array, "*batch n m"]
    ) -> Float[Array, "*batch n m"]:
        """What the coordinates are taken of, once the subspace is chosen for A."""
        del S
        return A

    def keep(self, projected: Projected, state: Any) -> Any:
        """What to store until the next step."""
        del projected
        return state

    def finish(self, step: Step, state: Any) -> tuple[Float[Array, "*batch n m"], Any]:
        """The step in weight space, by default P u, and what is stored."""
        return step.lifted(), state

    @property
    def steps_outside(self) -> bool:
        """Whether `finish` makes more of a step than P u."""
        return type(self).finish is not Residual.finish

    def check(self, parts: Any) -> None:
        """Raise if another axis lacks what this residual needs.

        Args:
          parts: the engine's `Parts`.
        """
        del parts


@axis_value()
class Discard(Residual):
    """Drop it; build with `residuals.discard`."""


def discard() -> Residual:
    """Drop the part outside the subspace, as GaLore does: the step is P u.

    Example:
      >>> import lowrank_optax as lro
      >>> lro.residuals.discard()
      Discard()
    """
    return Discard()

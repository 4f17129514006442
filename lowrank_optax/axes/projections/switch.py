"""One projection for the first refreshes and another one from then on."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lowrank_optax.axes.projections.base import Moment
from lowrank_optax.axes.projections.learned import LearnedBasis
from lowrank_optax.core.matrices import MatrixSpec


class SwitchBasis(NamedTuple):
    """P and the number of refreshes so far."""

    P: Float[Array, "*batch n r"]
    refreshes: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Switch(LearnedBasis):
    """Two learned bases in turn; build with `projections.switch.switch`."""

    first: LearnedBasis
    second: LearnedBasis
    refreshes: int

    @property
    def rank(self) -> int | float:  # type: ignore[override]
        """Rank of both."""
        return self.first.rank

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether either is random."""
        return self.first.stochastic or self.second.stochastic

    def init(self, spec: MatrixSpec, dtype: Any, key: PRNGKeyArray | None) -> SwitchBasis:
        """The first one's."""
        return SwitchBasis(self.first.init(spec, dtype, key), jnp.zeros((), jnp.int32))

    def matrix(self, basis: SwitchBasis) -> Float[Array, "*batch n r"]:
        """P."""
        return basis.P

    def refresh(
        self,
        A: Float[Array, "*batch m n"],
        basis: SwitchBasis,
        rank: int,
        key: PRNGKeyArray | None,
        moment: Moment | None = None,
    ) -> SwitchBasis:
        """By the projection whose turn it is."""
        P = jax.lax.cond(
            basis.refreshes < self.refreshes,
            lambda: self.first.refresh(A, basis.P, rank, key, moment),
            lambda: self.second.refresh(A, basis.P, rank, key, moment),
        )
        return SwitchBasis(P, basis.refreshes + 1)


def switch(first: LearnedBasis, second: LearnedBasis, refreshes: int) -> Switch:
    """`first` for a number of refreshes, then `second`; both learned bases of the same rank.

    Example:
      >>> import lowrank_optax as lro
      >>> from lowrank_optax.axes.projections.switch import switch
      >>> switch(lro.projections.svd(4), lro.projections.random(4), 10).rank
      4
    """
    return Switch(first, second, refreshes)

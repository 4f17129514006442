"""Coordinates of the compressed axis: the simplest fixed basis, and with random choice RandPerm."""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Float, Int

from lowrank_optax.axes import selection
from lowrank_optax.axes.projections.fixed import FixedBasis
from lowrank_optax.linalg.arguments import check_rank


@dataclasses.dataclass(frozen=True)
class Identity(FixedBasis):
    """Coordinates; build it with `projections.identity`."""

    rank: int | float
    select: selection.Selection

    def lift(
        self, u: Float[Array, "*batch m r"], basis: Int[Array, "*batch r"], shape: tuple[int, ...]
    ) -> Float[Array, "*batch m n"]:
        """u in the chosen columns and zero elsewhere."""
        return self.embed(u, basis, shape)

    def columns(self, indices: Int[Array, "*batch r"], n: int, dtype: Any) -> Array:
        """Unit vectors."""
        return jax.nn.one_hot(indices, n, dtype=dtype, axis=-2)


def identity(rank: int | float = 128, select: str | selection.Selection = "l1") -> Identity:
    """r of the n coordinates of the compressed axis: whole columns of the gradient.

    With `select="uniform"` a new random set at every refresh, which FRUGAL calls RandPerm.

    Args:
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      select: "l1" or "l2" (the norm that ranks columns), "importance", "hybrid", "uniform", or a
        `selection.Selection`.

    Raises:
      TypeError, ValueError: if an argument is out of range.

    Reference:
      arXiv 2411.07837.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> projection = lro.projections.identity(rank=2)
      >>> projection.refresh(jnp.array([[1.0, 9.0, 2.0]]), None, 2, None).tolist()
      [1, 2]
    """
    check_rank(rank)
    return Identity(rank, selection.resolve(select))

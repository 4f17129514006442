"""Coordinates of the compressed axis: the simplest fixed basis, and with random choice RandPerm."""

from typing import Any

import jax
from jaxtyping import Array

from lowrank_optax.axes import selection
from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.projections.arrays import Coordinates, Indices, Matrix
from lowrank_optax.axes.projections.fixed import ChosenColumns, FixedBasis
from lowrank_optax.linalg.arguments import check_rank


@axis_value()
class Identity(FixedBasis):
    """Coordinates; build it with `projections.identity`."""

    rank: int | float
    select: selection.Selection
    whole = ""

    def lift(self, u: Coordinates, columns: ChosenColumns) -> Matrix:
        return columns.embed(u)

    def columns(self, indices: Indices, n: int, dtype: Any) -> Array:
        return jax.nn.one_hot(indices, n, dtype=dtype, axis=-2)


def identity(rank: int | float = 128, select: str | selection.Selection = "l1") -> Identity:
    """r of the n coordinates of the compressed axis: whole rows or columns of the gradient.

    With `select="uniform"` a new random set at every refresh, which FRUGAL calls RandPerm.

    Args:
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      select: as for `projections.dct`.

    Raises:
      TypeError, ValueError: if an argument is out of range.

    Reference:
      arXiv 2411.07837.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> projection = lro.projections.identity(rank=2)
      >>> projection.select(projection.select.scores(jnp.array([[1.0], [9.0], [2.0]])), 2, None)
      Array([1, 2], dtype=int32)
    """
    check_rank(rank)
    return Identity(rank, selection.resolve(select))

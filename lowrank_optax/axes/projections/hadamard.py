"""Columns of the Walsh–Hadamard transform: a fixed basis of signs, for powers of two."""

import dataclasses
from typing import Any

from jaxtyping import Array, PRNGKeyArray

from lowrank_optax.axes import selection
from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.projections.arrays import Indices, Matrix
from lowrank_optax.axes.projections.base import Shape
from lowrank_optax.axes.projections.fixed import FixedBasis
from lowrank_optax.linalg.arguments import check_rank
from lowrank_optax.linalg.hadamard import hadamard_columns, is_power_of_two, orthogonal_hadamard
from lowrank_optax.sharding.transforms import transform_columns


@axis_value("select")
class Hadamard(FixedBasis):
    """Columns of the Walsh–Hadamard transform; build it with `projections.hadamard`."""

    rank: int | float
    select: selection.Selection

    def init(self, shape: Shape, rank: int, dtype: Any, key: PRNGKeyArray) -> Array:
        if not is_power_of_two(shape[-2]):
            raise ValueError(
                "projections.hadamard needs a compressed dimension that is a power of two, not n = "
                f"{shape[-2]}; use projections.dct, which takes any n, or compress the other side."
            )
        return super().init(shape, rank, dtype, key)

    def analyze(self, G: Matrix, dtype: Any) -> Matrix:
        return transform_columns(Transform(dtype), Transform(G.dtype), G)

    def synthesize(self, S: Matrix) -> Matrix:
        # The same transform: Q is symmetric.
        return transform_columns(Transform(S.dtype), Transform(S.dtype), S)

    def columns(self, indices: Indices, n: int, dtype: Any) -> Array:
        return hadamard_columns(n, indices, dtype=dtype)


@dataclasses.dataclass(frozen=True)
class Transform:
    """Of the second-to-last axis, with a result in a dtype; equal to another one of the same."""

    dtype: Any

    def __call__(self, x: Matrix) -> Matrix:
        return orthogonal_hadamard(x.astype(self.dtype))


def hadamard(rank: int | float = 128, select: str | selection.Selection = "l1") -> Hadamard:
    """r columns of the orthonormal Walsh–Hadamard basis, in Sylvester's order.

    Its entries are ±1/√n, and its fast transform takes additions only.

    Args:
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      select: as for `projections.dct`.

    Raises:
      TypeError, ValueError: if an argument is out of range, or in `init`, naming the parameter, if
        a compressed dimension is not a power of two.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> projection = lro.projections.hadamard(rank=1)
      >>> S = projection.analyze(jnp.array([[3.0], [-3.0], [3.0], [-3.0]]), jnp.float32)
      >>> projection.select(projection.select.scores(S), 1, None).tolist()
      [1]
    """
    check_rank(rank)
    return Hadamard(rank, selection.resolve(select))

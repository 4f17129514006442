"""Columns of the discrete cosine transform, by a fast transform."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Array

from lowrank_optax.axes import selection
from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.projections.arrays import Indices, Matrix
from lowrank_optax.axes.projections.fixed import FixedBasis
from lowrank_optax.linalg.arguments import check_rank
from lowrank_optax.linalg.dct import (
    dct_columns,
    domain_dct,
    domain_idct,
    domain_order,
    orthogonal_dct,
    orthogonal_idct,
)
from lowrank_optax.sharding.transforms import transform_columns


@axis_value()
class Dct(FixedBasis):
    """Columns of the discrete cosine transform; build it with `projections.dct`."""

    rank: int | float
    select: selection.Selection
    kind: str = "II"
    sync_axis: str | None = None

    def analyze(self, G: Matrix, dtype: Any) -> Matrix:
        # Of G as it is: half precision suits matrix units.
        there, back = Transform(self.kind, dtype), Transform(self.kind, G.dtype, inverse=True)
        return transform_columns(there, back, G)

    def synthesize(self, S: Matrix) -> Matrix:
        there, back = Transform(self.kind, S.dtype, inverse=True), Transform(self.kind, S.dtype)
        return transform_columns(there, back, S)

    def columns(self, indices: Indices, n: int, dtype: Any) -> Array:
        return dct_columns(n, indices, dtype=dtype, kind=self.kind)

    def order(self, n: int) -> np.ndarray | None:
        return domain_order(n) if self.kind == "II" else None


@dataclasses.dataclass(frozen=True)
class Transform:
    """The transform of a kind or its inverse, equal to another one of the same options."""

    kind: str
    dtype: Any
    inverse: bool = False

    def __call__(self, x: Matrix) -> Matrix:
        """Of the second-to-last axis, in the domain's order."""
        if self.kind == "II":
            return (domain_idct if self.inverse else domain_dct)(x, self.dtype)
        transform = orthogonal_dct if self.inverse else orthogonal_idct
        return transform(x, axis=-2, dtype=self.dtype)


def dct(
    rank: int | float = 128,
    select: str | selection.Selection = "l1",
    *,
    kind: str = "II",
    sync_axis: str | None = None,
) -> Dct:
    """r columns of the orthonormal DCT, the ones that hold most of the matrix they are chosen for.

    Args:
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      select: "l1" or "l2" (the norm that ranks columns), "importance", "hybrid", "uniform", or a
        `selection.Selection`.
      kind: "II" for the DCT-II basis; "III" for its transpose, which some published code uses.
      sync_axis: axis of `jax.shard_map` whose devices average scores (n numbers) and coordinates
        (m × r); None for no averaging.

    Raises:
      TypeError, ValueError: if an argument is out of range.

    Reference:
      arXiv 2505.17967, section 2.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> projection = lro.projections.dct(rank=2)
      >>> S = projection.analyze(jnp.outer(jnp.arange(4.0), jnp.ones(3)), jnp.float32)
      >>> projection.select(projection.select.scores(S), 2, None).tolist()
      [0, 1]
    """
    check_rank(rank)
    if kind not in ("II", "III"):
        raise ValueError(f"kind={kind!r} is unknown; use 'II' or 'III'.")
    return Dct(rank, selection.resolve(select), kind, sync_axis)

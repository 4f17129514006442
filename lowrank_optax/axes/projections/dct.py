"""Columns of the discrete cosine transform by a fast transform, also after random signs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

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


@axis_value("select")
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
    """Of the second-to-last axis, in the domain's order; equal to another one of its options."""

    kind: str
    dtype: Any
    inverse: bool = False

    def __call__(self, x: Matrix) -> Matrix:
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


@axis_value("select", "seed")
class RandomOrthogonal(Dct):
    """Columns of Q = D C; build it with `projections.random_orthogonal`."""

    seed: Any = 0

    def analyze(self, G: Matrix, dtype: Any) -> Matrix:
        return super().analyze(G * self._signs(G.shape[-2], G.dtype), dtype)

    def synthesize(self, S: Matrix) -> Matrix:
        return super().synthesize(S) * self._signs(S.shape[-2], S.dtype)

    def columns(self, indices: Indices, n: int, dtype: Any) -> Array:
        return super().columns(indices, n, dtype) * self._signs(n, dtype)

    def _signs(self, n: int, dtype: Any) -> Float[Array, "n 1"]:
        # From bits and a named generator, so that neither the default dtype nor the default
        # generator of a program that resumes from a checkpoint changes the basis.
        key = jax.random.key(self.seed, impl="threefry2x32")
        return 1 - 2 * (jax.random.bits(key, (n, 1), jnp.uint32) & 1).astype(dtype)


def random_orthogonal(
    rank: int | float = 128, select: str | selection.Selection = "l1", *, seed: Any = 0
) -> RandomOrthogonal:
    """r columns of a random orthogonal n × n basis that is drawn once, from a seed.

    Q = D C: a random sign for every coordinate, then the orthonormal DCT-II. It is orthogonal for
    any n, has a fast transform, takes no memory, and spreads the energy of any vector over its
    columns: xᵀ q lies within ± 2 √(log(2 n / δ) / n) ‖x‖ for all columns q with probability 1 − δ.
    Random signs or a random order of the columns as well would only rename them. For a subspace
    drawn anew at every refresh see `projections.random`.

    Args:
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      select: as for `projections.dct`.
      seed: of the basis; matrices of the same n share it.

    Raises:
      TypeError, ValueError: if an argument is out of range.

    Reference:
      arXiv 1011.1595, on the same construction with the Walsh–Hadamard transform.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> projection = lro.projections.random_orthogonal(rank=2, seed=1)
      >>> Q = projection.columns(jnp.arange(5), 5, jnp.float32)
      >>> bool(jnp.allclose(projection.analyze(jnp.eye(5), Q.dtype), Q.T, atol=1e-6))
      True
    """
    check_rank(rank)
    return RandomOrthogonal(rank, selection.resolve(select), seed=seed)

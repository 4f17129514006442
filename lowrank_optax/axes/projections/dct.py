"""Columns of the discrete cosine transform, by a fast transform."""

from typing import Any

from jaxtyping import Array, Float, Int

from lowrank_optax.axes import selection
from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.projections.fixed import FixedBasis
from lowrank_optax.linalg.arguments import check_rank
from lowrank_optax.linalg.dct import dct_columns, orthogonal_dct, orthogonal_idct


@axis_value()
class Dct(FixedBasis):
    """Columns of the discrete cosine transform; build it with `projections.dct`."""

    rank: int | float
    select: selection.Selection
    kind: str
    sync_axis: str | None = None

    def analyze(self, G: Float[Array, "*batch n m"], dtype: Any) -> Float[Array, "*batch n m"]:
        """S = Qᵀ G by a fast transform."""
        return self._transform(self.kind == "II", G, dtype)

    def synthesize(self, S: Float[Array, "*batch n m"]) -> Float[Array, "*batch n m"]:
        """G = Q S by a fast transform."""
        return self._transform(self.kind != "II", S, S.dtype)

    def columns(self, indices: Int[Array, "*batch r"], n: int, dtype: Any) -> Array:
        """Cosines of the chosen columns."""
        return dct_columns(n, indices, dtype=dtype, kind=self.kind)

    def _transform(self, forward: bool, x: Array, dtype: Any) -> Array:
        return (orthogonal_dct if forward else orthogonal_idct)(x.astype(dtype), axis=-2)


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

    Returns:
      A projection for `scale_by_low_rank`.

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

"""A fixed random orthogonal basis that is never stored: a signed permutation, then the DCT."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lowrank_optax import selection
from lowrank_optax.arguments import require_static
from lowrank_optax.linalg.dct import dct_columns, orthogonal_dct, orthogonal_idct
from lowrank_optax.matrices import check_rank
from lowrank_optax.projections.fixed import FixedBasis


@dataclasses.dataclass(frozen=True)
class RandomOrthogonal(FixedBasis):
    """Columns of Q = D Π C; build it with `projections.random_orthogonal`."""

    rank: int | float
    select: selection.Selection
    seed: int

    def analyze(self, G: Float[Array, "*batch m n"]) -> Float[Array, "*batch m n"]:
        """S = G Q: signs, permutation, fast transform."""
        signs, order = self._draw(G.shape[-1], G.dtype)
        return orthogonal_dct(jnp.take(G * signs, order, axis=-1, mode="clip"))

    def synthesize(self, S: Float[Array, "*batch m n"]) -> Float[Array, "*batch m n"]:
        """G = S Qᵀ: the inverses in reverse order."""
        signs, order = self._draw(S.shape[-1], S.dtype)
        inverse = jnp.argsort(order)
        return signs * jnp.take(orthogonal_idct(S), inverse, axis=-1, mode="clip")

    def columns(self, indices: Int[Array, "*batch r"], n: int, dtype: Any) -> Array:
        """Cosines of the chosen columns, their rows permuted and signed."""
        signs, order = self._draw(n, dtype)
        cosines = dct_columns(n, indices, dtype=dtype)
        return signs[:, None] * jnp.take(cosines, jnp.argsort(order), axis=-2, mode="clip")

    def _draw(self, n: int, dtype: Any) -> tuple[Float[Array, " n"], Int[Array, " n"]]:
        # From bits and a named generator, so that neither the default dtype nor the default
        # generator of a program that resumes from a checkpoint changes the basis.
        key = jax.random.key(self.seed, impl="threefry2x32")
        bits = jax.random.bits(key, (2, n), jnp.uint32)
        signs = 1 - 2 * (bits[0] & 1).astype(dtype)
        return signs, jnp.argsort(bits[1])


def random_orthogonal(
    rank: int | float = 128, select: str | selection.Selection = "l1", *, seed: int = 0
) -> RandomOrthogonal:
    """r columns of a random orthogonal n × n basis that is drawn once, from a seed.

    Q = D Π C: a random sign for every coordinate, a random order of the coordinates, and the
    orthonormal DCT-II. It is orthogonal for any n, has a fast transform, spreads any vector over
    its columns with high probability, and takes no memory. Permuting or signing the
    columns as well would only rename them. For a subspace drawn anew at every refresh see
    `projections.random`.

    Args:
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      select: "l1" or "l2" (the norm that ranks columns), "importance", "hybrid", "uniform", or a
        `selection.Selection`.
      seed: of the basis; matrices of the same n share it.

    Returns:
      A projection for `scale_by_low_rank`.

    Raises:
      TypeError, ValueError: if an argument is out of range.

    Reference:
      Structured random orthogonal transforms: arXiv 1011.1595.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> projection = lro.projections.random_orthogonal(rank=2, seed=1)
      >>> Q = projection.columns(jnp.arange(5), 5, jnp.float32)
      >>> bool(jnp.allclose(Q.T @ Q, jnp.eye(5), atol=1e-6))
      True
      >>> bool(jnp.allclose(projection.analyze(jnp.eye(5)), Q, atol=1e-6))
      True
    """
    check_rank(rank)
    require_static("seed", seed)
    return RandomOrthogonal(rank, selection.resolve(select), seed)

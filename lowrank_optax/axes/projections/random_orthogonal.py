"""A fixed random orthogonal basis that is never stored: random signs, then the DCT."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lowrank_optax.axes import selection
from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.projections.arrays import Indices, Matrix
from lowrank_optax.axes.projections.dct import Dct
from lowrank_optax.linalg.arguments import check_rank


@axis_value("seed")
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
    columns, |xᵀ q| ≤ 2 √(log(2 n / δ) / n) ‖x‖ for all columns q with probability 1 − δ.
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
      >>> bool(jnp.allclose(Q.T @ Q, jnp.eye(5), atol=1e-6))
      True
      >>> bool(jnp.allclose(projection.analyze(jnp.eye(5), Q.dtype), Q.T, atol=1e-6))
      True
    """
    check_rank(rank)
    return RandomOrthogonal(rank, selection.resolve(select), seed=seed)

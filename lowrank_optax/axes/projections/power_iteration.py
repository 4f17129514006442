"""Warm-started block power iteration: one product with A and one orthogonalisation per step."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.projections.arrays import Columns
from lowrank_optax.axes.projections.base import Choice, Shape
from lowrank_optax.axes.projections.learned import LearnedBasis
from lowrank_optax.linalg.arguments import check_fraction, check_rank, require_count
from lowrank_optax.linalg.orthogonalize import METHODS, keep_finite, orthonormal_columns
from lowrank_optax.linalg.products import product
from lowrank_optax.linalg.singular import right_singular_vectors


@axis_value("rho", "b1")
class PowerIteration(LearnedBasis):
    """P ← orth(A (Aᵀ P)); build with `projections.power_iteration`."""

    rank: int | float
    iterations: int
    rho: Any
    b1: Any
    orthogonalize: str

    @property
    def uses_moment(self) -> bool:
        return self.rho is not None

    def init(self, shape: Shape, rank: int, dtype: Any, key: PRNGKeyArray) -> Array:
        """Zeros: nothing to start from yet."""
        return jnp.zeros_like(super().init(shape, rank, dtype, key))

    def refresh(self, choice: Choice) -> Columns:
        """One or more iterations from the old basis; A's singular vectors where there is none."""
        A, basis = choice.A, choice.basis

        def iterate() -> Columns:
            P = basis.astype(A.dtype)
            for _ in range(self.iterations):
                b = self._times(choice, P, transposed=True)
                # Scaled, so that the squares of tiny gradients do not underflow.
                largest = jnp.max(jnp.abs(b), axis=(-2, -1), keepdims=True)
                b = b / jnp.where(largest > 0, largest, 1)
                P = orthonormal_columns(self._times(choice, b), self.orthogonalize)
            return jnp.where(largest > 0, keep_finite(P.astype(basis.dtype), basis), basis)

        def start() -> Columns:
            V = right_singular_vectors(A.mT, choice.rank, key=choice.key)[0].astype(basis.dtype)
            coordinates = jnp.eye(V.shape[-2], V.shape[-1], dtype=V.dtype)
            return keep_finite(V, jnp.broadcast_to(coordinates, V.shape))

        return jax.lax.cond(jnp.any(basis != 0), iterate, start)

    def _times(self, choice: Choice, x: Array, transposed: bool = False) -> Array:
        """B x or Bᵀ x; B = ρ P_old m̂ + (1 − ρ) A is never formed, its products are low-rank."""
        A = choice.A.mT if transposed else choice.A
        along = product(A, x)
        if self.rho is None:
            return along
        moment = choice.moment
        assert moment is not None
        assert moment.count is not None
        m = moment.mu / (1 - self.b1 ** jnp.maximum(moment.count, 1))
        P, m = choice.basis.astype(A.dtype), m.astype(A.dtype)
        left, right = (m.mT, P.mT) if transposed else (P, m)
        return self.rho * product(left, product(right, x)) + (1 - self.rho) * along


def power_iteration(
    rank: int | float = 128,
    *,
    iterations: int = 1,
    rho: Any = None,
    b1: Any = 0.9,
    orthogonalize: str = "qr",
) -> PowerIteration:
    """The leading right singular subspace, followed by power iteration from the last one.

    The first refresh takes A's singular vectors. Afterwards P ← orth(B (Bᵀ P)) with B = A, or
    with B = ρ P m̂ + (1 − ρ) A where m̂ is the inner optimizer's first moment (LDAdam).

    Args:
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      iterations: power iterations per refresh.
      rho: ρ, the weight of the first moment; None to follow A alone.
      b1: decay rate of the inner optimizer's first moment, for its bias correction.
      orthogonalize: "qr", "cholesky_qr" or "auto", as for `scale_by_dion`; the old basis is kept
        where "cholesky_qr" has none.

    Raises:
      TypeError, ValueError: if an argument is out of range.

    Reference:
      arXiv 2410.16103, algorithm 1.

    Example:
      >>> import lowrank_optax as lro
      >>> lro.projections.power_iteration(rank=4, iterations=2).iterations
      2
    """
    check_rank(rank)
    require_count("iterations", iterations)
    if orthogonalize not in METHODS:
        raise ValueError(f"orthogonalize={orthogonalize!r} is unknown; use one of {METHODS}.")
    if rho is not None:
        check_fraction("rho", rho)
    return PowerIteration(rank, iterations, rho, b1, orthogonalize)

"""Warm-started block power iteration: one product with A and one orthogonalisation per step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lowrank_optax.axes.projections.base import Moment
from lowrank_optax.axes.projections.learned import LearnedBasis
from lowrank_optax.core.matrices import MatrixSpec
from lowrank_optax.linalg.arguments import check_rank
from lowrank_optax.linalg.orthogonalize import HIGHEST, METHODS, keep_finite, orthonormal_columns
from lowrank_optax.linalg.singular import right_singular_vectors


@dataclasses.dataclass(frozen=True)
class PowerIteration(LearnedBasis):
    """P ← orth(Aᵀ (A P)); build with `projections.power_iteration`."""

    rank: int | float
    iterations: int
    rho: Any
    b1: Any
    orthogonalize: str

    @property
    def uses_moment(self) -> bool:  # type: ignore[override]
        """Whether the iteration runs on a mixture with the first moment."""
        return self.rho is not None

    def init(
        self, spec: MatrixSpec, dtype: Any, key: PRNGKeyArray | None
    ) -> Float[Array, "*batch n r"]:
        """Zeros: nothing to start from yet."""
        return jnp.zeros_like(super().init(spec, dtype, key))

    def refresh(
        self,
        A: Float[Array, "*batch m n"],
        basis: Float[Array, "*batch n r"],
        rank: int,
        key: PRNGKeyArray | None,
        moment: Moment | None = None,
    ) -> Float[Array, "*batch n r"]:
        """One or more iterations from the old basis; A's singular vectors where there is none."""
        del key
        B = A if moment is None else self._mixture(A, basis, moment)

        def iterate() -> Float[Array, "*batch n r"]:
            P = basis.astype(A.dtype)
            for _ in range(self.iterations):
                b = jnp.matmul(B, P, precision=HIGHEST)
                # Scaled, so that the squares of tiny gradients do not underflow.
                largest = jnp.max(jnp.abs(b), axis=(-2, -1), keepdims=True)
                b = b / jnp.where(largest > 0, largest, 1)
                P = orthonormal_columns(jnp.matmul(B.mT, b, precision=HIGHEST), self.orthogonalize)
            return jnp.where(largest > 0, keep_finite(P.astype(basis.dtype), basis), basis)

        def start() -> Float[Array, "*batch n r"]:
            V = right_singular_vectors(A, rank)[0].astype(basis.dtype)
            coordinates = jnp.eye(V.shape[-2], V.shape[-1], dtype=V.dtype)
            return keep_finite(V, jnp.broadcast_to(coordinates, V.shape))

        return jax.lax.cond(jnp.any(basis != 0), iterate, start)

    def _mixture(
        self, A: Float[Array, "*batch m n"], basis: Float[Array, "*batch n r"], moment: Moment
    ) -> Float[Array, "*batch m n"]:
        """ρ m̂ Pᵀ + (1 − ρ) A with the bias-corrected first moment m̂."""
        correction = 1 - self.b1 ** jnp.maximum(moment.count, 1)
        m = (moment.mu / correction).astype(A.dtype)
        return self.rho * self.embed(m, basis, A.shape[-2:]) + (1 - self.rho) * A


def power_iteration(
    rank: int | float = 128,
    *,
    iterations: int = 1,
    rho: Any = None,
    b1: Any = 0.9,
    orthogonalize: str = "qr",
) -> PowerIteration:
    """The leading right singular subspace, followed by power iteration from the last one.

    The first refresh takes A's singular vectors. Afterwards P ← orth(Bᵀ (B P)) with B = A, or
    with B = ρ m̂ Pᵀ + (1 − ρ) A where m̂ is the inner optimizer's first moment (LDAdam).

    Args:
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      iterations: power iterations per refresh.
      rho: ρ, the weight of the first moment; None to follow A alone.
      b1: decay rate of the inner optimizer's first moment, for its bias correction.
      orthogonalize: "qr" or "cholesky_qr", as for `linalg.orthogonalize`.

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
    if iterations < 1:
        raise ValueError(f"iterations={iterations} must be at least 1.")
    if orthogonalize not in METHODS:
        raise ValueError(f"orthogonalize={orthogonalize!r} is unknown; use one of {METHODS}.")
    return PowerIteration(rank, iterations, rho, b1, orthogonalize)

"""Singular subspaces: the best rank-r subspace, or a sample of singular vectors."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lowrank_optax.axes import selection
from lowrank_optax.axes.projections.base import Moment
from lowrank_optax.axes.projections.learned import LearnedBasis
from lowrank_optax.linalg.arguments import check_rank
from lowrank_optax.linalg.orthogonalize import canonical_signs, keep_finite
from lowrank_optax.linalg.singular import METHODS, right_singular_vectors


@dataclasses.dataclass(frozen=True)
class Svd(LearnedBasis):
    """Right singular vectors of A; build with `projections.svd`."""

    rank: int | float
    select: selection.Selection
    method: str

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether the selection or the factorisation is random."""
        return self.select.stochastic or self.method == "randomized"

    def refresh(
        self,
        A: Float[Array, "*batch m n"],
        basis: Float[Array, "*batch n r"],
        rank: int,
        key: PRNGKeyArray | None,
        moment: Moment | None = None,
    ) -> Float[Array, "*batch n r"]:
        """Select among A's right singular vectors; the old basis where A has none to offer."""
        del moment
        select_key, svd_key = (None, None) if key is None else jax.random.split(key)
        count = self.select.candidates(rank, min(A.shape[-2:]))
        V, s = right_singular_vectors(A, count, self.method, svd_key)
        V = canonical_signs(V)
        if count > rank:
            chosen = self.select(s, rank, select_key)
            V = jnp.take_along_axis(V, chosen[..., None, :], axis=-1)
        nonzero = jnp.any(s > 0, axis=-1)[..., None, None]
        return jnp.where(nonzero, keep_finite(V.astype(basis.dtype), basis), basis)


def svd(
    rank: int | float = 128,
    select: str | selection.Selection = "top",
    *,
    method: str = "auto",
) -> Svd:
    """The span of r right singular vectors of the matrix they are chosen for.

    Args:
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      select: "top" for the r leading ones, "importance", "hybrid", "uniform", or a
        `selection.Selection` over the singular values.
      method: "exact", "gram" (much faster for tall matrices), "randomized", or "auto": "gram" on
        several devices, "exact" on one.

    Raises:
      TypeError, ValueError: if an argument is out of range.

    Reference:
      arXiv 2403.03507, equation 6.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> A = jnp.outer(jnp.arange(4.0), jnp.array([1.0, 2.0, 2.0]))
      >>> round(float(lro.diagnostics.captured_energy(A, lro.projections.svd(rank=1))), 4)
      1.0
    """
    check_rank(rank)
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; use one of {METHODS}.")
    return Svd(rank, selection.resolve(select), method)

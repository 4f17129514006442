"""Singular subspaces: the best rank-r subspace, or a sample of singular vectors."""

import jax
import jax.numpy as jnp

from lowrank_optax.axes import selection
from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.projections.arrays import Columns
from lowrank_optax.axes.projections.base import Choice
from lowrank_optax.axes.projections.learned import LearnedBasis
from lowrank_optax.linalg.arguments import check_rank
from lowrank_optax.linalg.orthogonalize import canonical_signs, keep_finite
from lowrank_optax.linalg.singular import METHODS, right_singular_vectors


@axis_value()
class Svd(LearnedBasis):
    """Singular vectors of A on the compressed side; build with `projections.svd`."""

    rank: int | float
    select: selection.Selection
    method: str

    def refresh(self, choice: Choice) -> Columns:
        """Select among A's singular vectors; the old basis where A has none to offer."""
        A, basis, rank = choice.A, choice.basis, choice.rank
        select_key, svd_key = jax.random.split(choice.key)
        count = self.select.candidates(rank, min(A.shape[-2:]))
        V, s = right_singular_vectors(A.mT, count, self.method, svd_key)
        V = canonical_signs(V)
        if count > rank:
            chosen = self.select(s, rank, select_key)
            V = jnp.take_along_axis(V, chosen[..., None, :], axis=-1)
        nonzero = jnp.any(s > 0, axis=-1)[..., None, None]
        return jnp.where(nonzero, keep_finite(V.astype(basis.dtype), basis), basis)


def svd(
    rank: int | float = 128, select: str | selection.Selection = "top", *, method: str = "auto"
) -> Svd:
    """The span of r singular vectors of the matrix they are chosen for, on its compressed side.

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
      >>> A = jnp.outer(jnp.array([1.0, 2.0, 2.0]), jnp.arange(4.0))
      >>> round(float(lro.diagnostics.captured_energy(A, lro.projections.svd(rank=1))), 4)
      1.0
    """
    check_rank(rank)
    chosen = selection.resolve(select)
    if chosen.follow is not None:
        raise ValueError(
            f"select={select!r} follows the moment's rows in a fixed basis, which svd has not; use "
            "projections.power_iteration(rho=…) to follow the moment."
        )
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; use one of {METHODS}.")
    return Svd(rank, chosen, method)

"""A subspace that follows the gradients by one optimizer step on a PCA loss per training step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.projections.arrays import Columns, Coordinates, Matrix
from lowrank_optax.axes.projections.base import Choice, Shape
from lowrank_optax.axes.projections.learned import LearnedBasis
from lowrank_optax.linalg.arguments import check_rank, require_kind
from lowrank_optax.linalg.orthogonalize import canonical_signs, keep_finite
from lowrank_optax.linalg.products import product
from lowrank_optax.linalg.singular import right_singular_vectors


class OnlinePcaBasis(NamedTuple):
    """P and the state of the optimizer that moves it."""

    P: Columns
    optimizer: Any


@axis_value("penalty", "optimizer")
class OnlinePca(LearnedBasis):
    """P ← P + optimizer step on the loss; build with `projections.online_pca`."""

    rank: int | float
    optimizer: optax.GradientTransformation
    penalty: Any

    @property
    def is_orthogonal(self) -> bool:
        """Its columns are nowhere made orthonormal, and grow on gradients that stay the same."""
        return False

    def init(self, shape: Shape, rank: int, dtype: Any, key: PRNGKeyArray) -> OnlinePcaBasis:
        P = super().init(shape, rank, dtype, key)
        return OnlinePcaBasis(P, self.optimizer.init(P))

    def matrix(self, basis: OnlinePcaBasis) -> Columns:
        return basis.P

    def refresh(self, choice: Choice) -> OnlinePcaBasis:
        """The best subspace for A, and a fresh optimizer."""
        P = choice.basis.P
        V, s = right_singular_vectors(choice.A.mT, choice.rank, key=choice.key)
        # The singular vectors of a zero gradient are finite, and mean nothing.
        known = jnp.any(s > 0, axis=-1)[..., None, None]
        P = jnp.where(known, keep_finite(canonical_signs(V).astype(P.dtype), P), P)
        return OnlinePcaBasis(P, self.optimizer.init(P))

    def settle(
        self, basis: OnlinePcaBasis, A: Matrix, a: Coordinates, refreshed: Any
    ) -> OnlinePcaBasis:
        """One step of the optimizer, except where P was just chosen or would not be finite."""
        H = _pca_gradient(A, a, basis.P, self.penalty)
        updates, state = self.optimizer.update(H, basis.optimizer, basis.P)
        P = basis.P + updates
        finite = jnp.all(jnp.isfinite(P), axis=(-2, -1))

        def settled(old: Array, new: Array) -> Array:
            # What a stack's matrices share, such as a step count, is kept with none of them.
            is_shared = new.shape[: finite.ndim] != finite.shape
            kept = refreshed if is_shared else refreshed | _beside(~finite, new)
            return jnp.where(kept, old, new)

        return jax.tree.map(settled, basis, OnlinePcaBasis(P, state))


def _beside(x: Array, leaf: Array) -> Array:
    """One number per matrix, to be broadcast with a leaf that begins with the same axes."""
    return x.reshape(x.shape + (1,) * (leaf.ndim - x.ndim))


def _pca_gradient(A: Matrix, a: Coordinates, P: Columns, penalty: Any) -> Columns:
    """Gradient in P of ‖Ĝ − P Pᵀ Ĝ‖² + λ ‖Pᵀ P − I‖², with Ĝ = A / ‖A‖ and a = Pᵀ A.

    In closed form, with â = Pᵀ Ĝ, K = Ĝ âᵀ and C = Pᵀ P: 2 (P â âᵀ + K C − 2 K) + 4 λ P (C − I).
    All products are with r columns.
    """
    energy = jnp.sum(jnp.square(A), axis=(-2, -1), keepdims=True)
    energy = jnp.where(energy > 0, energy, 1)
    P = P.astype(A.dtype)
    K = product(A, a.mT) / energy
    C = product(P.mT, P)
    orthogonality = product(P, C - jnp.eye(C.shape[-1], dtype=C.dtype))
    inside = product(P, product(a, a.mT) / energy)
    return 2 * (inside + product(K, C) - 2 * K) + 4 * penalty * orthogonality


def online_pca(
    rank: int | float = 128,
    *,
    optimizer: optax.GradientTransformation | None = None,
    penalty: Any = 0.0,
) -> OnlinePca:
    """The subspace of Online Subspace Descent, for `update_interval=lro.refresh.Once()`.

    A refresh takes the singular vectors of A on its compressed side; every other step moves P,
    after it was used, by one step of `optimizer` on ‖Ĝ − P Pᵀ Ĝ‖² + λ ‖Pᵀ P − I‖². P is not
    orthonormalised. Refreshed at every step, `scale_by_low_rank`'s default, it never moves: it is
    `projections.svd`.

    Args:
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      optimizer: an optax optimizer, learning rate included; None for AdamW at 1/200 with weight
        decay 0.01, as published.
      penalty: λ.

    Raises:
      TypeError, ValueError: if the rank is out of range, or the optimizer none of optax's.

    Reference:
      arXiv 2408.12857, equation 5.

    Example:
      >>> import optax
      >>> import lowrank_optax as lro
      >>> lro.projections.online_pca(rank=4, optimizer=optax.sgd(0.1)).penalty
      0.0
    """
    check_rank(rank)
    if optimizer is None:
        optimizer = optax.adamw(1 / 200, weight_decay=0.01)
    require_kind("optimizer", optimizer, optax.GradientTransformation, "optax.sgd(0.1)")
    return OnlinePca(rank, optimizer, penalty)

"""Both sides compressed at once: Pᵀ G Q of shape (r_left, r_right)."""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from lowrank_optax.axes.projections.base import Basis, Moment, Projection
from lowrank_optax.core.matrices import MatrixSpec
from lowrank_optax.linalg.arguments import resolve_rank

Keys = tuple[PRNGKeyArray | None, PRNGKeyArray | None]


@dataclasses.dataclass(frozen=True)
class TwoSided(Projection):
    """`right` on the last axis and `left` on the one before; build with `projections.two_sided`.

    A basis is the pair (left's, right's). The left projection sees transposed matrices.
    """

    left: Projection
    right: Projection

    keeps_rows = False

    @property
    def rank(self) -> int | float:  # type: ignore[override]
        """The right one's, whose axis is the compressed one."""
        return self.right.rank

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether either side draws at random."""
        return self.left.stochastic or self.right.stochastic

    def low_rank_shape(self, spec: MatrixSpec) -> tuple[int, ...]:
        """(*batch, r_left, r_right)."""
        return (*spec.batch, resolve_rank(self.left.rank, spec.m), spec.rank)

    def init(self, spec: MatrixSpec, dtype: Any, key: PRNGKeyArray | None) -> Basis:
        """Both sides' bases."""
        left_key, right_key = _split(key)
        transposed = dataclasses.replace(
            spec,
            row_axes=spec.column_axes,
            column_axes=spec.row_axes,
            side="out" if spec.side == "in" else "in",
            rank=resolve_rank(self.left.rank, spec.m),
        )
        return (
            self.left.init(transposed, dtype, left_key),
            self.right.init(spec, dtype, right_key),
        )

    def analyze(self, G: Float[Array, "*batch m n"]) -> Float[Array, "*batch m n"]:
        """Into the right domain along rows, then into the left one along columns."""
        return self.left.analyze(self.right.analyze(G).mT).mT

    def synthesize(self, S: Float[Array, "*batch m n"]) -> Float[Array, "*batch m n"]:
        """Back along columns, then along rows."""
        return self.right.synthesize(self.left.synthesize(S.mT).mT)

    def refresh(
        self,
        A: Float[Array, "*batch m n"],
        basis: Basis,
        rank: int,
        key: PRNGKeyArray | None,
        moment: Moment | None = None,
    ) -> Basis:
        """Each side for itself, from A and from Aᵀ; A has been transformed on both sides."""
        del moment
        left_key, right_key = _split(key)
        left, right = (None, None) if basis is None else basis
        left_rank = resolve_rank(self.left.rank, A.shape[-2])
        return (
            self.left.refresh(A.mT, left, left_rank, left_key),
            self.right.refresh(A, right, rank, right_key),
        )

    def project(self, A: Float[Array, "*batch m n"], basis: Basis) -> Float[Array, "*batch p r"]:
        """a = P_leftᵀ A P_right."""
        left, right = basis
        return self.left.project(self.right.project(A, right).mT, left).mT

    def embed(
        self, u: Float[Array, "*batch p r"], basis: Basis, shape: tuple[int, ...]
    ) -> Float[Array, "*batch m n"]:
        """P_left u P_rightᵀ in the domain."""
        left, right = basis
        m, n = shape
        wide = self.right.embed(u, right, (u.shape[-2], n))
        return self.left.embed(wide.mT, left, (n, m)).mT

    def lift(
        self, u: Float[Array, "*batch p r"], basis: Basis, shape: tuple[int, ...]
    ) -> Float[Array, "*batch m n"]:
        """P_left u P_rightᵀ in weight space."""
        left, right = basis
        m, n = shape
        wide = self.right.lift(u, right, (u.shape[-2], n))
        return self.left.lift(wide.mT, left, (n, m)).mT

    def carry(
        self, x: Float[Array, "*batch p r"], previous: Basis, current: Basis
    ) -> Float[Array, "*batch p r"]:
        """Both sides' changes of coordinates, one after the other."""
        (old_left, old_right), (new_left, new_right) = previous, current
        moved = self.right.carry(x, old_right, new_right)
        return self.left.carry(moved.mT, old_left, new_left).mT

    def carry_squared(
        self, x: Float[Array, "*batch p r"], previous: Basis, current: Basis
    ) -> Float[Array, "*batch p r"]:
        """The same with squared changes of coordinates: the square of a tensor product."""
        (old_left, old_right), (new_left, new_right) = previous, current
        moved = self.right.carry_squared(x, old_right, new_right)
        return self.left.carry_squared(moved.mT, old_left, new_left).mT

    def overlap(self, previous: Basis, current: Basis) -> Float[Array, "*batch"]:
        """The product of the sides' overlaps, as the subspace is their tensor product."""
        (old_left, old_right), (new_left, new_right) = previous, current
        return self.left.overlap(old_left, new_left) * self.right.overlap(old_right, new_right)


def _split(key: PRNGKeyArray | None) -> Keys:
    if key is None:
        return None, None
    left, right = jax.random.split(key)
    return left, right


def two_sided(left: Projection, right: Projection) -> TwoSided:
    """Compress both sides of every matrix: a = P_leftᵀ A P_right, of shape (r_left, r_right).

    The inner optimizer's state is then r_left · r_right numbers per matrix instead of m · r. The
    `right` projection acts on the side that `compress` chooses, the shorter one by default, and
    `left` on the other one; each side's rank is a rank of its own dimension.

    Args:
      left: projection of the other side, the longer one by default.
      right: projection of the compressed side.

    Raises:
      TypeError: if one is no projection, or is two-sided itself.
      ValueError: if one cannot work on one side only, because it follows the inner optimizer's
        moment or remembers something of every step.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import lowrank_optax as lro
      >>> projection = lro.projections.two_sided(lro.projections.dct(3), lro.projections.svd(2))
      >>> tx = lro.scale_by_low_rank(optax.scale_by_adam(), projection)
      >>> tx.init({"w": jnp.ones((4, 8))}).inner.mu["w"].shape
      (3, 2)
    """
    for side, projection in (("left", left), ("right", right)):
        _check_side(side, projection)
    return TwoSided(left, right)


def _check_side(side: str, projection: Any) -> None:
    if not isinstance(projection, Projection) or isinstance(projection, TwoSided):
        raise TypeError(
            f"two_sided: {side}={projection!r} must be a one-sided projection such as "
            "projections.dct(128)."
        )
    reason = None
    if projection.uses_moment:
        reason = "follows the inner optimizer's first moment, whose rows are not this side's"
    elif type(projection).settle is not Projection.settle:
        reason = "learns from every step on one side, which two_sided does not form"
    if reason is not None:
        raise ValueError(
            f"two_sided: {side}={projection!r} {reason}; use projections.dct, svd, random, or "
            "power_iteration without rho on that side."
        )

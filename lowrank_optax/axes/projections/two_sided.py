"""Both sides compressed at once: P_leftᵀ G P_right with both ranks small."""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.projections.arrays import Coordinates, Matrix
from lowrank_optax.axes.projections.base import Choice, Projection, Shape, Subspace, Transition


@axis_value("left", "right")
class TwoSided(Projection):
    """`right` on the compressed axis and `left` on the other; build with `projections.two_sided`.

    A basis is the pair (left's, right's). The left projection sees transposed matrices.
    """

    rank: int | float
    left: Projection
    right: Projection
    whole = "nm"

    def rank_of(self, n: int, m: int) -> int:
        return self.right.rank_of(n, m)

    def low_rank_shape(self, shape: Shape, rank: int) -> Shape:
        return (*shape[:-2], rank, self._left_rank(shape))

    def init(self, shape: Shape, rank: int, dtype: Any, key: PRNGKeyArray) -> tuple[Any, Any]:
        left_key, right_key = jax.random.split(key)
        left = self.left.init(_transposed(shape), self._left_rank(shape), dtype, left_key)
        return left, self.right.init(shape, rank, dtype, right_key)

    def analyze(self, G: Matrix, dtype: Any) -> Matrix:
        return self.left.analyze(self.right.analyze(G, dtype).mT, dtype).mT

    def synthesize(self, S: Matrix) -> Matrix:
        return self.right.synthesize(self.left.synthesize(S.mT).mT)

    def refresh(self, choice: Choice) -> tuple[Any, Any]:
        """Each side for itself, from A and from Aᵀ; A has been transformed on both sides."""
        left, right = choice.basis
        left_key, right_key = jax.random.split(choice.key)
        left_rank = self._left_rank(choice.A.shape)
        for_left = Choice(choice.A.mT, left, left_rank, left_key, choice.count)
        for_right = dataclasses.replace(choice, basis=right, key=right_key)
        return self.left.refresh(for_left), self.right.refresh(for_right)

    def subspace(self, basis: Any, shape: Shape, dtype: Any = None) -> "Product":
        left = self.left.subspace(basis[0], _transposed(shape), dtype)
        return Product(left, self.right.subspace(basis[1], shape, dtype))

    @property
    def is_orthogonal(self) -> bool:
        return self.left.is_orthogonal and self.right.is_orthogonal

    def check(self, parts: Any) -> None:
        """Raise if another axis lacks what a side needs."""
        self.left.check(parts)
        self.right.check(parts)

    def _left_rank(self, shape: Shape) -> int:
        return self.left.rank_of(shape[-1], shape[-2])


@dataclasses.dataclass(frozen=True)
class Product(Subspace):
    """The tensor product of a subspace of each side: a = P_rightᵀ A P_left."""

    left: Subspace
    right: Subspace

    @property
    def is_exact(self) -> bool:
        return self.left.is_exact and self.right.is_exact

    def project(self, A: Matrix) -> Coordinates:
        return self.left.project(self.right.project(A).mT).mT

    def embed(self, u: Coordinates) -> Matrix:
        return self.left.embed(self.right.embed(u).mT).mT

    def lift(self, u: Coordinates) -> Matrix:
        return self.left.lift(self.right.lift(u).mT).mT

    def since(self, previous: "Product") -> "Transitions":
        return Transitions(self.left.since(previous.left), self.right.since(previous.right))


@dataclasses.dataclass(frozen=True)
class Transitions(Transition):
    """A change of coordinates on each side, one after the other."""

    left: Transition
    right: Transition

    def carry(self, x: Coordinates) -> Coordinates:
        return self.left.carry(self.right.carry(x).mT).mT

    def carry_squared(self, x: Coordinates) -> Coordinates:
        # The square of a tensor product is that of the squares.
        return self.left.carry_squared(self.right.carry_squared(x).mT).mT

    def overlap(self) -> Float[Array, "*batch"]:
        return self.left.overlap() * self.right.overlap()


def _transposed(shape: Shape) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2])


def two_sided(left: Projection, right: Projection) -> TwoSided:
    """Compress both sides of every matrix: a = P_rightᵀ A P_left, of shape (r_right, r_left).

    The inner optimizer's state is then r_left · r_right numbers per matrix instead of r · m. The
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
      (2, 3)
    """
    for side, projection in (("left", left), ("right", right)):
        if not isinstance(projection, Projection) or isinstance(projection, TwoSided):
            raise TypeError(
                f"two_sided: {side}={projection!r} must be a one-sided projection such as "
                "projections.dct(128)."
            )
        if projection.uses_moment:
            reason = "follows the inner optimizer's first moment, whose rows are not this side's"
        elif type(projection).settle is not Projection.settle:
            reason = "learns from every step on one side, which two_sided does not form"
        else:
            continue
        raise ValueError(
            f"two_sided: {side}={projection!r} {reason}; use projections.dct, svd or random on "
            "that side."
        )
    return TwoSided(right.rank, left, right)

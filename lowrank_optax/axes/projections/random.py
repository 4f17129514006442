"""Random subspaces, drawn anew at every refresh."""

import math

import jax

from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.projections.arrays import Columns
from lowrank_optax.axes.projections.base import Choice
from lowrank_optax.axes.projections.learned import LearnedBasis
from lowrank_optax.linalg.arguments import check_rank
from lowrank_optax.linalg.orthogonalize import orthonormal_columns

KINDS = ("orthonormal", "gaussian")


@axis_value()
class Random(LearnedBasis):
    """A random P; build with `projections.random`."""

    rank: int | float
    kind: str

    @property
    def is_orthogonal(self) -> bool:
        return self.kind == "orthonormal"

    def refresh(self, choice: Choice) -> Columns:
        normal = jax.random.normal(choice.key, choice.basis.shape, choice.basis.dtype)
        if self.kind == "gaussian":
            return normal / math.sqrt(choice.rank)
        return orthonormal_columns(normal)


def random(rank: int | float = 128, *, kind: str = "orthonormal") -> Random:
    """A random r-dimensional subspace, independent of the gradient.

    Args:
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      kind: "orthonormal" for a uniformly random subspace, as GoLore uses; "gaussian" for
        independent N(0, 1/r) entries (Johnson–Lindenstrauss), which keep lengths in expectation
        but form no projector.

    Raises:
      TypeError, ValueError: if an argument is out of range.

    Reference:
      arXiv 2410.11289, algorithm 1.

    Example:
      >>> import lowrank_optax as lro
      >>> lro.projections.random(rank=4).kind
      'orthonormal'
    """
    check_rank(rank)
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is unknown; use one of {KINDS}.")
    return Random(rank, kind)

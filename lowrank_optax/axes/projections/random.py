"""Random subspaces, drawn anew at every refresh."""

import dataclasses
import math

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from lowrank_optax.axes.projections.base import Moment
from lowrank_optax.axes.projections.learned import LearnedBasis
from lowrank_optax.linalg.arguments import check_rank
from lowrank_optax.linalg.keys import require_key
from lowrank_optax.linalg.orthogonalize import orthonormal_columns

KINDS = ("orthonormal", "gaussian")


@dataclasses.dataclass(frozen=True)
class Random(LearnedBasis):
    """A random P; build with `projections.random`."""

    rank: int | float
    kind: str

    stochastic = True

    def refresh(
        self,
        A: Float[Array, "*batch m n"],
        basis: Float[Array, "*batch n r"],
        rank: int,
        key: PRNGKeyArray | None,
        moment: Moment | None = None,
    ) -> Float[Array, "*batch n r"]:
        """A fresh draw, whatever A is."""
        del A, moment
        key = require_key(key, "projections.random")
        normal = jax.random.normal(key, basis.shape, basis.dtype)
        return normal / math.sqrt(rank) if self.kind == "gaussian" else orthonormal_columns(normal)


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
      >>> lro.projections.random(rank=4).stochastic
      True
    """
    check_rank(rank)
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is unknown; use one of {KINDS}.")
    return Random(rank, kind)

"""Which r columns of a basis to keep, from one score per column.

A selection works on any basis: on a fixed one it ranks the columns' norms, on a learned one the
singular values. Indices come back in ascending order, so that a slot's meaning is stable.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

NORMS = ("l1", "l2")


def column_scores(S: Float[Array, "*batch m n"], norm: str) -> Float[Array, "*batch n"]:
    """Score of every column of S: its l1 norm, or its squared l2 norm (the same ranking as l2).

    Args:
      S: coefficients, shape (..., m, n).
      norm: "l1" or "l2".

    Returns:
      Scores, shape (..., n).

    Raises:
      ValueError: if `norm` is unknown.

    Reference:
      arXiv 2505.17967, section 2 (columns ranked by their norm).

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.selection import column_scores
      >>> column_scores(jnp.array([[1.0, -2.0], [3.0, 0.5]]), "l1").tolist()
      [4.0, 2.5]
    """
    check_norm(norm)
    return jnp.sum(jnp.abs(S) if norm == "l1" else jnp.square(S), axis=-2)


def check_norm(norm: str) -> None:
    """Raise unless `norm` is "l1" or "l2"."""
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} is unknown; use one of {NORMS}.")


class Selection(abc.ABC):
    """Chooses r of n columns. Hashable and stateless; randomness comes as a key.

    Attributes:
      norm: norm by which columns of a fixed basis are scored.
      stochastic: whether `__call__` uses its key.
    """

    norm: str = "l1"
    stochastic: bool = False

    @abc.abstractmethod
    def __call__(
        self, scores: Float[Array, "*batch n"], rank: int, key: PRNGKeyArray | None
    ) -> Int[Array, "*batch r"]:
        """Ascending int32 indices of `rank` columns, given their non-negative scores."""


@dataclasses.dataclass(frozen=True)
class Top(Selection):
    """The r columns of largest score.

    Args:
      norm: "l1" or "l2"; under "l2" this is the best r-subset of the basis.

    Raises:
      ValueError: if `norm` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.selection import Top
      >>> Top()(jnp.array([1.0, 5.0, 2.0, 4.0]), 2, None).tolist()
      [1, 3]
    """

    norm: str = "l1"

    def __post_init__(self) -> None:
        check_norm(self.norm)

    def __call__(
        self, scores: Float[Array, "*batch n"], rank: int, key: PRNGKeyArray | None
    ) -> Int[Array, "*batch r"]:
        """The `rank` largest scores' indices, ascending."""
        del key
        return jnp.sort(jax.lax.top_k(scores, rank)[1], axis=-1).astype(jnp.int32)


def resolve(select: str | Selection) -> Selection:
    """Turn a name into a selection: "l1" and "l2" are `Top` by that norm, "top" is `Top("l1")`.

    Raises:
      ValueError: if the name is unknown.
    """
    if isinstance(select, Selection):
        return select
    named: dict[str, Selection] = {"top": Top(), "l1": Top("l1"), "l2": Top("l2")}
    if select not in named:
        raise ValueError(f"select={select!r} is unknown; use one of {tuple(named)} or a Selection.")
    return named[select]

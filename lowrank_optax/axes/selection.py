"""Which r columns of a basis to keep, from one score per column.

A selection works on any basis: on a fixed one it ranks or weighs the columns' norms, on a learned
one the singular values. Indices come back in ascending order, so that a slot's meaning is stable.
"""

import abc
import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lowrank_optax.axes._value import axis_value
from lowrank_optax.linalg.arguments import require_count, require_key
from lowrank_optax.linalg.devices import largest

__all__ = ["Following", "Hybrid", "Importance", "Sampling", "Selection", "Top", "Uniform"]
__all__ += ["following", "hybrid", "importance", "resolve", "uniform"]

NORMS = ("l1", "l2")


def column_scores(S: Float[Array, "*batch n m"], norm: str) -> Float[Array, "*batch n"]:
    """Score of every basis column, whose coefficients are a row: their l1 norm, or l2 norm squared.

    Reference:
      arXiv 2505.17967, section 2 (columns ranked by their norm).
    """
    check_norm(norm)
    return jnp.sum(jnp.abs(S) if norm == "l1" else jnp.square(S), axis=-1)


def check_norm(norm: str) -> None:
    """Raise unless `norm` is "l1" or "l2"."""
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} is unknown; use one of {NORMS}.")


class Selection(abc.ABC):
    """Chooses r of n columns. Hashable and stateless; randomness comes as a key."""

    norm: str = "l1"  # by which columns of a fixed basis are scored
    follow: Any = None  # weight of the inner optimizer's first moment in what is scored

    def scores(self, S: Float[Array, "*batch n m"]) -> Float[Array, "*batch n"]:
        """What `__call__` takes, for the columns of a fixed basis with coefficients S."""
        return column_scores(S, self.norm)

    def candidates(self, rank: int, available: int) -> int:
        """How many leading columns a learned basis must supply of those that have a score."""
        del available
        return rank

    @abc.abstractmethod
    def __call__(
        self, scores: Float[Array, "*batch n"], rank: int, key: PRNGKeyArray | None
    ) -> Int[Array, "*batch r"]:
        """Ascending int32 indices of `rank` columns, given their non-negative scores."""


@axis_value()
class Top(Selection):
    """The r columns of largest score; with the norm "l2" the best r-subset of the basis.

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.axes.selection import Top
      >>> Top()(jnp.array([1.0, 5.0, 2.0, 4.0]), 2, None).tolist()
      [1, 3]
    """

    norm: str = "l1"

    def __post_init__(self) -> None:
        check_norm(self.norm)

    def __call__(
        self, scores: Float[Array, "*batch n"], rank: int, key: PRNGKeyArray | None
    ) -> Int[Array, "*batch r"]:
        del key
        return jnp.sort(largest(scores, rank)[1], axis=-1).astype(jnp.int32)


class Sampling(Selection):
    """Draws columns at random, by default among all of them."""

    pool: int | None = None  # draw among this many of largest score, or the rank if that is more

    def scores(self, S: Float[Array, "*batch n m"]) -> Float[Array, "*batch n"]:
        """The columns' norms: as weights, unlike for ranking, squares would not do."""
        scores = column_scores(S, self.norm)
        return scores if self.norm == "l1" else jnp.sqrt(scores)

    def candidates(self, rank: int, available: int) -> int:
        return max(rank, available if self.pool is None else min(self.pool, available))


@axis_value()
class Importance(Sampling):
    """Weighted sampling without replacement; build it with `importance`."""

    norm: str
    pool: int | None

    def __call__(
        self, scores: Float[Array, "*batch n"], rank: int, key: PRNGKeyArray | None
    ) -> Int[Array, "*batch r"]:
        count = self.candidates(rank, scores.shape[-1])
        weights, columns = largest(scores, count)
        # Below every logarithm of a positive float64, so that a score of zero (or NaN) only ever
        # loses; and small enough for float32 to tell the noise added to it apart.
        never = jnp.asarray(-1e3, weights.dtype)
        logits = jnp.where(weights > 0, jnp.maximum(jnp.log(weights), never), never)
        noise = jax.random.gumbel(
            require_key(key, "select='importance'"), weights.shape, weights.dtype
        )
        return _largest(logits + noise, columns, rank)


@axis_value()
class Hybrid(Sampling):
    """Some of the best columns and some random ones; build it with `hybrid`."""

    r0: int | float
    norm: str
    pool: int | None

    def __call__(
        self, scores: Float[Array, "*batch n"], rank: int, key: PRNGKeyArray | None
    ) -> Int[Array, "*batch r"]:
        # 0.07 of 100 is 7, though its product in binary is above.
        whole = isinstance(self.r0, numbers.Integral)
        best = self.r0 if whole else math.ceil(self.r0 * rank - 1e-9)
        count = self.candidates(rank, scores.shape[-1])
        columns = largest(scores, count)[1]
        noise = jax.random.uniform(require_key(key, "select='hybrid'"), columns.shape)
        return _largest(jnp.where(jnp.arange(count) < best, 2.0, noise), columns, rank)


@axis_value()
class Uniform(Sampling):
    """Any r columns, equally likely; build it with `uniform`."""

    def __call__(
        self, scores: Float[Array, "*batch n"], rank: int, key: PRNGKeyArray | None
    ) -> Int[Array, "*batch r"]:
        noise = jax.random.uniform(require_key(key, "select='uniform'"), scores.shape)
        return Top()(noise, rank, None)


@axis_value("select", "follow")
class Following(Selection):
    """Another selection, of the gradient and the moment together; build it with `following`."""

    select: Selection
    follow: Any

    def scores(self, S: Float[Array, "*batch n m"]) -> Float[Array, "*batch n"]:
        return self.select.scores(S)

    def __call__(
        self, scores: Float[Array, "*batch n"], rank: int, key: PRNGKeyArray | None
    ) -> Int[Array, "*batch r"]:
        return self.select(scores, rank, key)


def _largest(
    priorities: Float[Array, "*batch k"], columns: Int[Array, "*batch k"], rank: int
) -> Int[Array, "*batch r"]:
    """The columns of the `rank` largest priorities, ascending."""
    slots = largest(priorities, rank)[1]
    return jnp.sort(jnp.take_along_axis(columns, slots, axis=-1), axis=-1).astype(jnp.int32)


def importance(norm: str = "l1", candidates: int | None = None) -> Selection:
    """Draw r columns one after the other, each in proportion to the remaining scores (I3S).

    A learned basis is scored by its singular values, a fixed one by the norms of its columns'
    coefficients. Drawn at once as the r largest of log(score) + Gumbel noise, which is the same
    distribution. Columns of score zero are drawn only when no other is left.

    Args:
      norm: "l1" or "l2", by which columns of a fixed basis are weighed.
      candidates: draw among this many columns of largest score, at least r; None for all.

    Raises:
      TypeError, ValueError: if an argument is out of range.

    Reference:
      I3S: Importance Sampling Subspace Selection; Gumbel-top-k: arXiv 1903.06059.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> draw = lro.selection.importance()
      >>> draw(jnp.array([0.0, 5.0, 0.0, 4.0]), 2, jax.random.key(0)).tolist()
      [1, 3]
    """
    check_norm(norm)
    if candidates is not None:
        require_count("candidates", candidates)
    return Importance(norm, candidates)


def hybrid(r0: int | float = 0.5, norm: str = "l1", candidates: int | None = None) -> Selection:
    """The r0 columns of largest score and r − r0 drawn uniformly among the others.

    Args:
      r0: an int, clipped to r; or a fraction in [0, 1] of r, rounded up.
      norm: "l1" or "l2", by which columns of a fixed basis are ranked.
      candidates: draw the others among this many columns of largest score, at least r; None for
        all.

    Raises:
      TypeError, ValueError: if an argument is out of range.

    Reference:
      I3S: Importance Sampling Subspace Selection, its hybrid of dominant and random subspaces.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> chosen = lro.selection.hybrid(1)(jnp.array([1.0, 0.0, 9.0, 2.0]), 2, jax.random.key(0))
      >>> 2 in chosen.tolist()
      True
    """
    check_norm(norm)
    if candidates is not None:
        require_count("candidates", candidates)
    if r0 < 0 or (not isinstance(r0, numbers.Integral) and r0 > 1):
        raise ValueError(
            f"r0={r0} must be the number of best columns, at least 0, or a fraction in [0, 1] of r."
        )
    return Hybrid(r0, norm, candidates)


def uniform() -> Selection:
    """Any r columns, equally likely, whatever their scores.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> len(set(lro.selection.uniform()(jnp.ones(9), 4, jax.random.key(0)).tolist()))
      4
    """
    return Uniform()


def following(weight: Any = 0.95, select: str | Selection = "l1") -> Selection:
    """Choose columns of a fixed basis by the gradient and the inner optimizer's moment together.

    What is scored is G + weight · P m, with P m the first moment where it is, in the columns of the
    last subspace. So a column is kept until others have grown past what it remembers.

    Args:
      weight: of the moment; its decay, for what the moment will be.
      select: how columns are chosen by their scores.

    Example:
      >>> import optax
      >>> import lowrank_optax as lro
      >>> projection = lro.projections.identity(2, select=lro.selection.following(0.9))
      >>> tx = lro.scale_by_low_rank(optax.trace(0.9), projection, transport="rotate")
    """
    return Following(resolve(select), weight)


def resolve(select: str | Selection) -> Selection:
    """Turn a name into a selection.

    "l1" and "l2" are `Top` by that norm and "top" is `Top("l1")`; "importance", "hybrid" and
    "uniform" are the functions of that name without arguments.

    Raises:
      ValueError: if the name is unknown.
    """
    if isinstance(select, Selection):
        return select
    named: dict[str, Selection] = {
        "top": Top(),
        "l1": Top("l1"),
        "l2": Top("l2"),
        "importance": importance(),
        "hybrid": hybrid(),
        "uniform": uniform(),
    }
    if select not in named:
        raise ValueError(f"select={select!r} is unknown; use one of {tuple(named)} or a Selection.")
    return named[select]

"""Fixed orthogonal bases, whose state is the indices of r columns; the simplest is the identity."""

import abc
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lowrank_optax.axes import selection
from lowrank_optax.axes._value import axis_value
from lowrank_optax.axes.moments import first_moment, inner_name, template_state
from lowrank_optax.axes.projections.arrays import Coordinates, Indices, Matrix
from lowrank_optax.axes.projections.base import Choice, Projection, Shape, Subspace, Transition
from lowrank_optax.linalg.arguments import check_rank, resolve_rank
from lowrank_optax.linalg.devices import mean_over
from lowrank_optax.linalg.products import product


class FixedBasis(Projection):
    """r columns of a fixed orthogonal n × n basis Q; the domain is the coefficients S = Qᵀ G."""

    select: selection.Selection  # chooses the columns
    # Axis of `jax.shard_map` over which scores and coordinates are averaged, so that devices with
    # different A take the same step; None for no averaging.
    sync_axis: str | None = None
    whole = "n"

    @property
    def uses_moment(self) -> bool:
        """Whether columns are scored on the moment too."""
        return self.select.follow is not None

    def rank_of(self, n: int, m: int) -> int:
        """r for matrices (..., n, m): up to n, for where m < n no m columns hold the matrix."""
        del m
        return resolve_rank(self.rank, n, n)

    @abc.abstractmethod
    def columns(self, indices: Indices, n: int, dtype: Any) -> Array:
        """The chosen columns of Q, shape (..., n, r)."""

    def order(self, n: int) -> np.ndarray | None:
        """Which column of Q each row of the domain belongs to; None if they are in order.

        A fast transform that leaves its result in an order of its own saves a pass over it.
        """
        del n
        return None

    def init(self, shape: Shape, rank: int, dtype: Any, key: PRNGKeyArray) -> Indices:
        """The first r columns."""
        del dtype, key
        return jnp.broadcast_to(jnp.arange(rank, dtype=jnp.int32), (*shape[:-2], rank))

    def refresh(self, choice: Choice) -> Indices:
        if choice.rank == choice.A.shape[-2]:
            return choice.basis
        scores = mean_over(self._scores(choice), self.sync_axis)
        # A sort puts NaN last: such a column would wait, unseen, in what is remembered of the rest.
        scores = jnp.where(jnp.isnan(scores), jnp.inf, scores)
        order = self.order(choice.A.shape[-2])
        if order is not None:
            scores = jnp.take(scores, np.argsort(order), axis=-1, mode="clip")
        return self.select(scores, choice.rank, choice.key)

    def _scores(self, choice: Choice) -> Float[Array, "*batch n"]:
        """Of A, or of A + follow · P m, which differs in the rows of the last subspace."""
        scores = self.select.scores(choice.A)
        if self.select.follow is None:
            return scores
        assert choice.moment is not None
        last = self.subspace(choice.basis, choice.A.shape)
        rows = last.rows(choice.A) + self.select.follow * choice.moment.mu.astype(choice.A.dtype)
        slots, chosen = last.table
        followed = jnp.take_along_axis(self.select.scores(rows), slots, axis=-1, mode="clip")
        return jnp.where(chosen, followed, scores)

    def subspace(self, basis: Indices, shape: Shape, dtype: Any = None) -> "ChosenColumns":
        return ChosenColumns(self, basis, shape[-2], dtype)

    def check(self, parts: Any) -> None:
        """Raise if a moment is to be followed that the inner optimizer does not have."""
        if self.uses_moment and first_moment(template_state(parts.inner)) is None:
            raise ValueError(
                f"the selection {self.select} follows a first moment, but the state of "
                f"{inner_name(parts.inner)} has none, or several; use another selection, or an "
                "inner optimizer such as optax.trace(0.95)."
            )

    def lift(self, u: Coordinates, columns: "ChosenColumns") -> Matrix:
        """P u with the r columns of P generated, or by the inverse transform for many columns."""
        dtype = columns.dtype or u.dtype
        if 2 * u.shape[-2] > columns.n:
            return self.synthesize(columns.embed(u))
        return product(self.columns(columns.indices, columns.n, dtype), u.astype(dtype))


@dataclasses.dataclass(frozen=True)
class ChosenColumns(Subspace):
    """The span of some columns of a fixed basis; in the domain, some rows of a matrix."""

    projection: FixedBasis
    indices: Indices
    n: int
    dtype: Any = None

    @property
    def is_exact(self) -> bool:
        return True

    def project(self, A: Matrix) -> Coordinates:
        return mean_over(self.rows(A), self.projection.sync_axis)

    def rows(self, A: Matrix) -> Coordinates:
        """The chosen rows of the coefficients, on this device."""
        if self.is_all:
            return A
        order, rows = self.projection.order(self.n), self.indices
        if order is not None:
            positions = jnp.asarray(np.argsort(order), jnp.int32)
            rows = jnp.take(positions, rows, axis=-1, mode="clip")
        return take_rows(A, rows)

    def embed(self, u: Coordinates) -> Matrix:
        if self.is_all:
            return u
        # A gather: on CPUs a scatter is a serial loop, and over devices one of a batch is sent.
        slots, chosen = self.table
        return jnp.where(chosen[..., None], take_rows(u, slots), jnp.zeros((), u.dtype))

    @property
    def is_all(self) -> bool:
        """Whether nothing is left to choose, and the rows are in order."""
        return self.indices.shape[-1] == self.n and self.projection.order(self.n) is None

    def lift(self, u: Coordinates) -> Matrix:
        return self.projection.lift(u, self)

    def reweight(self, A: Matrix, a: Any, inside: Any, outside: Any) -> Matrix:
        del a
        inside, outside = jnp.asarray(inside, A.dtype), jnp.asarray(outside, A.dtype)
        return A * jnp.where(self.table[1], inside, outside)[..., None]

    def store(self, A: Matrix, a: Any, inside: Any, outside: Any) -> Matrix:
        del a, inside, outside
        return A

    def restore(self, stored: Matrix, inside: Any, outside: Any) -> Matrix:
        return self.reweight(stored, None, inside, outside)

    def since(self, previous: "ChosenColumns") -> "MovedColumns":
        return MovedColumns(*_find(previous.indices, self.indices))

    @functools.cached_property
    def table(self) -> tuple[Int[Array, "*batch n"], Bool[Array, "*batch n"]]:
        """For every row its slot among the chosen ones, and whether it is chosen."""
        order = self.projection.order(self.n)
        columns = jnp.asarray(np.arange(self.n) if order is None else order, jnp.int32)
        return _find(self.indices, jnp.broadcast_to(columns, (*self.indices.shape[:-1], self.n)))


@dataclasses.dataclass(frozen=True)
class MovedColumns(Transition):
    """R holds zeros and ones only, so that no product is needed."""

    slots: Indices
    kept: Bool[Array, "*batch r"]

    def carry(self, x: Coordinates) -> Coordinates:
        """Move what belongs to columns chosen both times; new columns start from zero."""
        return jnp.where(self.kept[..., None], take_rows(x, self.slots), jnp.zeros((), x.dtype))

    def carry_squared(self, x: Coordinates) -> Coordinates:
        return self.carry(x)  # zeros and ones are their own squares

    def overlap(self) -> Float[Array, "*batch"]:
        return jnp.mean(self.kept, axis=-1, dtype=jnp.float32)


@functools.partial(jnp.vectorize, signature="(n,m),(r)->(r,m)")
def take_rows(x: Array, indices: Array) -> Array:
    """x[..., indices, :], batched over the leading axes."""
    return jnp.take(x, indices, axis=0, mode="clip")


@functools.partial(jnp.vectorize, signature="(r),(k)->(k)")
def _search(values: Array, queries: Array) -> Array:
    return jnp.searchsorted(values, queries, method="scan_unrolled")


def _find(
    previous: Int[Array, "*batch r"], current: Int[Array, "*batch k"]
) -> tuple[Int[Array, "*batch k"], Bool[Array, "*batch k"]]:
    """For every current index its slot among the ascending previous, and if it has one."""
    slots = jnp.minimum(_search(previous, current), previous.shape[-1] - 1)
    return slots, jnp.take_along_axis(previous, slots, axis=-1) == current


@axis_value("select")
class Identity(FixedBasis):
    """Coordinates; build it with `projections.identity`."""

    rank: int | float
    select: selection.Selection
    whole = ""

    def lift(self, u: Coordinates, columns: ChosenColumns) -> Matrix:
        return columns.embed(u)

    def columns(self, indices: Indices, n: int, dtype: Any) -> Array:
        return jax.nn.one_hot(indices, n, dtype=dtype, axis=-2)


def identity(rank: int | float = 128, select: str | selection.Selection = "l1") -> Identity:
    """r of the n coordinates of the compressed axis: whole rows or columns of the gradient.

    With `select="uniform"` a new random set at every refresh, which FRUGAL calls RandPerm.

    Args:
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      select: as for `projections.dct`.

    Raises:
      TypeError, ValueError: if an argument is out of range.

    Reference:
      arXiv 2411.07837.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> projection = lro.projections.identity(rank=2)
      >>> projection.select(projection.select.scores(jnp.array([[1.0], [9.0], [2.0]])), 2, None)
      Array([1, 2], dtype=int32)
    """
    check_rank(rank)
    return Identity(rank, selection.resolve(select))

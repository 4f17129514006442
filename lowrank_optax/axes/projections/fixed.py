"""Fixed orthogonal bases: the state is the indices of r columns, and never the basis itself."""

import abc
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from lowrank_optax.axes import selection
from lowrank_optax.axes.moments import first_moment, inner_name, template_state
from lowrank_optax.axes.projections.base import Choice, Projection, Shape, Subspace, Transition
from lowrank_optax.linalg.devices import mean_over
from lowrank_optax.linalg.products import product

Indices = Int[Array, "*batch r"]


class FixedBasis(Projection):
    """r columns of a fixed orthogonal n × n basis Q; the domain is the coefficients S = Qᵀ G.

    Attributes:
      select: chooses the columns.
      sync_axis: axis of `jax.shard_map` over which scores and coordinates are averaged, so that
        devices with different A take the same step; None for no averaging.
    """

    select: selection.Selection
    sync_axis: str | None = None
    whole = "n"

    @property
    def uses_moment(self) -> bool:
        """Whether columns are scored on the moment too."""
        return self.select.follow is not None

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
        """Choose columns anew from their scores."""
        if choice.rank == choice.A.shape[-2]:
            return choice.basis
        scores = mean_over(self._scores(choice), self.sync_axis)
        order = self.order(choice.A.shape[-2])
        if order is not None:
            scores = _look_up(scores, np.argsort(order))
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
        return jnp.where(chosen, _look_up(self.select.scores(rows), slots), scores)

    def subspace(self, basis: Indices, shape: Shape, dtype: Any = None) -> "ChosenColumns":
        """The span of the chosen columns."""
        return ChosenColumns(self, basis, shape[-2], dtype)

    def check(self, parts: Any) -> None:
        """Raise if a moment is to be followed that the inner optimizer does not have."""
        if self.uses_moment and first_moment(template_state(parts.inner)) is None:
            raise ValueError(
                f"the selection {self.select} follows a first moment, but the state of "
                f"{inner_name(parts.inner)} has none; use another selection, or an inner "
                "optimizer such as optax.trace(0.95)."
            )

    def lift(
        self, u: Float[Array, "*batch r m"], columns: "ChosenColumns"
    ) -> Float[Array, "*batch n m"]:
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

    def project(self, A: Float[Array, "*batch n m"]) -> Float[Array, "*batch r m"]:
        """The chosen rows of the coefficients, the devices' average."""
        return mean_over(self.rows(A), self.projection.sync_axis)

    def rows(self, A: Float[Array, "*batch n m"]) -> Float[Array, "*batch r m"]:
        """The chosen rows of the coefficients."""
        if self.is_all:
            return A
        order = self.projection.order(self.n)
        rows = self.indices
        if order is not None:
            rows = _look_up(jnp.asarray(np.argsort(order), jnp.int32), rows)
        return take_rows(A, rows)

    def embed(self, u: Float[Array, "*batch r m"]) -> Float[Array, "*batch n m"]:
        """Coefficients that are u at the chosen rows and zero elsewhere."""
        if self.is_all:
            return u
        # A gather: on CPUs a scatter is a serial loop, and over devices one of a batch is sent.
        slots, chosen = self.table
        return jnp.where(chosen[..., None], take_rows(u, slots), jnp.zeros((), u.dtype))

    @property
    def is_all(self) -> bool:
        """Whether nothing is left to choose, and the rows are in order."""
        return self.indices.shape[-1] == self.n and self.projection.order(self.n) is None

    def lift(self, u: Float[Array, "*batch r m"]) -> Float[Array, "*batch n m"]:
        """P u in weight space, as the projection does it best."""
        return self.projection.lift(u, self)

    def reweight(
        self, A: Float[Array, "*batch n m"], a: Any, inside: Any, outside: Any
    ) -> Float[Array, "*batch n m"]:
        """Multiply the chosen rows by `inside` and all others by `outside`."""
        del a
        weights = jnp.where(
            self.table[1], jnp.asarray(inside, A.dtype), jnp.asarray(outside, A.dtype)
        )
        return A * weights[..., None]

    def store(
        self, A: Float[Array, "*batch n m"], a: Any, inside: Any, outside: Any
    ) -> Float[Array, "*batch n m"]:
        """A itself: `restore` reweights it."""
        del a, inside, outside
        return A

    def restore(
        self, stored: Float[Array, "*batch n m"], inside: Any, outside: Any
    ) -> Float[Array, "*batch n m"]:
        """What is stored, reweighted."""
        return self.reweight(stored, None, inside, outside)

    def since(self, previous: "ChosenColumns") -> "MovedColumns":
        """Which columns were chosen before, and where they were."""
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

    def carry(self, x: Float[Array, "*batch r m"]) -> Float[Array, "*batch r m"]:
        """Move what belongs to columns chosen both times; new columns start from zero."""
        return jnp.where(self.kept[..., None], take_rows(x, self.slots), jnp.zeros((), x.dtype))

    def carry_squared(self, x: Float[Array, "*batch r m"]) -> Float[Array, "*batch r m"]:
        """The same: zeros and ones are their own squares."""
        return self.carry(x)

    def overlap(self) -> Float[Array, "*batch"]:
        """Share of the columns chosen both times."""
        return jnp.mean(self.kept, axis=-1, dtype=jnp.float32)


def take_rows(x: Float[Array, "*batch n m"], indices: Indices) -> Float[Array, "*batch r m"]:
    """x[..., indices, :], batched over the leading axes."""
    take = lambda x, indices: jnp.take(x, indices, axis=0, mode="clip")
    for _ in range(x.ndim - 2):
        take = jax.vmap(take)
    return take(x, indices)


def _look_up(table: Shaped[Array, "*batch n"], positions: Any) -> Shaped[Array, "*shape"]:
    """Entries of the last axis of a table, with a batch on one of the two or on both."""
    if table.ndim > 1 and getattr(positions, "ndim", 0) > 1:
        return jnp.take_along_axis(table, positions, axis=-1, mode="clip")
    return jnp.take(table, positions, axis=-1, mode="clip")


def _find(
    previous: Int[Array, "*batch r"], current: Int[Array, "*batch k"]
) -> tuple[Int[Array, "*batch k"], Bool[Array, "*batch k"]]:
    """For every current index its slot among the ascending previous, and if it has one."""
    search = lambda values, queries: jnp.searchsorted(values, queries, method="scan_unrolled")
    for _ in range(previous.ndim - 1):
        search = jax.vmap(search)
    slots = jnp.minimum(search(previous, current), previous.shape[-1] - 1)
    return slots, jnp.take_along_axis(previous, slots, axis=-1) == current

"""Fixed orthogonal bases: the state is the indices of r columns, and never the basis itself."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lowrank_optax.axes import selection
from lowrank_optax.axes.projections.base import Basis, Moment, Projection
from lowrank_optax.core.matrices import MatrixSpec
from lowrank_optax.linalg.averages import mean_over


class FixedBasis(Projection):
    """r columns of a fixed orthogonal n × n basis Q; the domain is the coefficients S = G Q.

    Attributes:
      select: chooses the columns.
      sync_axis: axis of `jax.shard_map` over which scores and coordinates are averaged, so that
        devices with different A take the same step; None for no averaging.
    """

    select: selection.Selection
    sync_axis: str | None = None
    mixes_columns = True

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether the selection draws columns at random."""
        return self.select.stochastic

    @abc.abstractmethod
    def columns(self, indices: Int[Array, "*batch r"], n: int, dtype: Any) -> Array:
        """The chosen columns of Q, shape (..., n, r)."""

    def init(
        self, spec: MatrixSpec, dtype: Any, key: PRNGKeyArray | None
    ) -> Int[Array, "*batch r"]:
        """The first r columns."""
        del dtype, key
        return jnp.broadcast_to(jnp.arange(spec.rank, dtype=jnp.int32), (*spec.batch, spec.rank))

    def refresh(
        self,
        A: Float[Array, "*batch m n"],
        basis: Basis,
        rank: int,
        key: PRNGKeyArray | None,
        moment: Moment | None = None,
    ) -> Int[Array, "*batch r"]:
        """Choose columns anew from their scores."""
        del basis, moment
        return self.select(mean_over(self.select.scores(A), self.sync_axis), rank, key)

    def project(
        self, A: Float[Array, "*batch m n"], basis: Int[Array, "*batch r"]
    ) -> Float[Array, "*batch m r"]:
        """Gather the chosen columns of the coefficients."""
        return mean_over(take_columns(A, basis), self.sync_axis)

    def lift(
        self, u: Float[Array, "*batch m r"], basis: Int[Array, "*batch r"], shape: tuple[int, ...]
    ) -> Float[Array, "*batch m n"]:
        """u Pᵀ with the r columns of P generated, or by the inverse transform for many columns."""
        if 2 * u.shape[-1] > shape[-1]:
            return super().lift(u, basis, shape)
        P = self.columns(basis, shape[-1], u.dtype)
        return jnp.matmul(u, P.mT, precision=jax.lax.Precision.HIGHEST)

    def embed(
        self, u: Float[Array, "*batch m r"], basis: Int[Array, "*batch r"], shape: tuple[int, ...]
    ) -> Float[Array, "*batch m n"]:
        """Coefficients that are u at the chosen columns and zero elsewhere."""
        # A gather of columns, the last of them zero: on CPUs a scatter of columns is a serial loop,
        # and over several devices one of a batch is sent around.
        slots, chosen = _find(basis, _all_columns(basis, shape[-1]))
        slots = jnp.where(chosen, slots, u.shape[-1])
        padded = jnp.concatenate([u, jnp.zeros_like(u[..., :1])], axis=-1)
        return take_columns(padded, slots)

    def reweight(
        self,
        A: Float[Array, "*batch m n"],
        a: Float[Array, "*batch m r"],
        basis: Int[Array, "*batch r"],
        inside: Any,
        outside: Any,
    ) -> Float[Array, "*batch m n"]:
        """Multiply the chosen columns by `inside` and all others by `outside`."""
        del a
        chosen = _find(basis, _all_columns(basis, A.shape[-1]))[1]
        weights = jnp.where(chosen, jnp.asarray(inside, A.dtype), jnp.asarray(outside, A.dtype))
        return A * weights[..., None, :]

    def carry(
        self,
        x: Float[Array, "*batch m r"],
        previous: Int[Array, "*batch r"],
        current: Int[Array, "*batch r"],
    ) -> Float[Array, "*batch m r"]:
        """Move the columns chosen both times to their new slots; new columns start from zero.

        Q_previousᵀ Q_current holds zeros and ones only, so no product is needed. The indices are
        ascending and distinct.
        """
        slots, found = _find(previous, current)
        return jnp.where(found[..., None, :], take_columns(x, slots), jnp.zeros((), x.dtype))

    def carry_squared(
        self,
        x: Float[Array, "*batch m r"],
        previous: Int[Array, "*batch r"],
        current: Int[Array, "*batch r"],
    ) -> Float[Array, "*batch m r"]:
        """The same as `carry`: zeros and ones are their own squares."""
        return self.carry(x, previous, current)

    def overlap(
        self, previous: Int[Array, "*batch r"], current: Int[Array, "*batch r"]
    ) -> Float[Array, "*batch"]:
        """Share of the columns chosen both times."""
        return jnp.mean(_find(previous, current)[1], axis=-1, dtype=jnp.float32)


def take_columns(
    x: Float[Array, "*batch m n"], indices: Int[Array, "*batch r"]
) -> Float[Array, "*batch m r"]:
    """x[..., :, indices], batched over the leading axes."""
    take = lambda x, indices: jnp.take(x, indices, axis=-1, mode="clip")
    for _ in range(x.ndim - 2):
        take = jax.vmap(take)
    return take(x, indices)


def _all_columns(basis: Int[Array, "*batch r"], n: int) -> Int[Array, "*batch n"]:
    return jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (*basis.shape[:-1], n))


def _find(
    previous: Int[Array, "*batch r"], current: Int[Array, "*batch k"]
) -> tuple[Int[Array, "*batch k"], Bool[Array, "*batch k"]]:
    """For every current index its slot among the ascending previous, and if it has one."""
    search = lambda values, queries: jnp.searchsorted(values, queries, method="scan_unrolled")
    for _ in range(previous.ndim - 1):
        search = jax.vmap(search)
    slots = jnp.minimum(search(previous, current), previous.shape[-1] - 1)
    return slots, jnp.take_along_axis(previous, slots, axis=-1) == current

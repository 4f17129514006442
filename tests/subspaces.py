"""Subspaces chosen for given matrices, without an engine around the projection."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lowrank_optax.axes.projections.base import Choice, Moment, Projection

KEY = jax.random.key(0)


@functools.cache
def _compiled(projection: Projection, rank: int) -> Callable[..., Any]:
    """A refresh as one program: an eager one would compile every operation."""

    @jax.jit
    def refresh(A: jax.Array, basis: Any, key: jax.Array, count: jax.Array, moment: Any) -> Any:
        moment = None if moment is None else Moment(*moment)
        return projection.refresh(Choice(A, basis, rank, key, count, moment))

    return refresh


def refreshed(
    projection: Projection,
    A: jax.Array,
    basis: Any,
    rank: int,
    *,
    key: jax.Array = KEY,
    count: int = 0,
    moment: Moment | None = None,
) -> Any:
    """The basis that follows another one, for A (..., n, m) in the projection's domain."""
    refresh = _compiled(projection, rank)
    tracked = None if moment is None else (moment.mu, moment.count)
    return refresh(A, basis, key, jnp.asarray(count, jnp.int32), tracked)


def chosen(projection: Projection, A: jax.Array, rank: int, key: jax.Array = KEY) -> Any:
    """The first basis for A (..., n, m) in the projection's domain."""
    return refreshed(projection, A, projection.init(A.shape, rank, A.dtype, key), rank, key=key)

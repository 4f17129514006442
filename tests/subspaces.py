"""Subspaces chosen for given matrices, without an engine around the projection."""

from typing import Any

import jax
import jax.numpy as jnp

from lowrank_optax.axes.projections.base import Choice, Moment, Projection

KEY = jax.random.key(0)


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
    return projection.refresh(Choice(A, basis, rank, key, jnp.asarray(count, jnp.int32), moment))


def chosen(projection: Projection, A: jax.Array, rank: int, key: jax.Array = KEY) -> Any:
    """The first basis for A (..., n, m) in the projection's domain."""
    return refreshed(projection, A, projection.init(A.shape, rank, A.dtype, key), rank, key=key)

"""Adafactor: the second moments of a matrix from those of its rows and columns."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from lowrank_optax.linalg.arguments import check_fraction
from lowrank_optax.transforms.precision import in_float32


class ScaleByAdafactorState(NamedTuple):
    """State of `scale_by_adafactor`."""

    count: Int[Array, ""]  # type: ignore[assignment]
    row: Any  # mean squares of the rows, (..., r) for an update (..., r, m); at least float32
    column: Any  # mean squares of the columns, (..., m); at least float32
    ema: Any  # moving average of the directions, like the updates


def scale_by_adafactor(b1: Any = 0.9) -> optax.GradientTransformation:
    """Adafactor without its own step sizes; low-rank arrays are factored however thin.

    With s = g² + 1e-30 and β = 1 − t^(−0.8): R ← β R + (1 − β) mean_columns(s), C alike over the
    rows; u = g / √(R Cᵀ / mean(R)), divided by its root mean square where that exceeds 1; the
    direction is the moving average of u with decay b1.

    Leading axes are batch axes, so that a stack of matrices is treated as each by itself. A vector
    is a matrix of one row, whose second moments are those of its entries.

    Args:
      b1: decay of the moving average.

    Raises:
      ValueError: b1 lies outside [0, 1].

    Reference:
      arXiv 1804.04235, algorithm 4.
      Differs from `optax.adafactor` in batch axes: there, the two longest axes are factored, and
      the root mean square is that of the whole stack.

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.transforms import scale_by_adafactor
      >>> state = scale_by_adafactor().init(jnp.zeros((5, 2, 64)))
      >>> state.row.shape, state.column.shape
      ((5, 2), (5, 64))
    """
    check_fraction("b1", b1)

    def init(params: Any) -> ScaleByAdafactorState:
        zeros = lambda of: jax.tree.map(lambda x: jnp.zeros_like(jax.eval_shape(of, x)), params)
        count, ema = jnp.zeros([], jnp.int32), optax.tree.zeros_like(params)
        return ScaleByAdafactorState(count, zeros(_rows), zeros(_columns), ema)

    def update(
        updates: Any, state: ScaleByAdafactorState, params: Any = None
    ) -> tuple[Any, ScaleByAdafactorState]:
        del params
        count = optax.safe_increment(state.count)

        def average(old: Any, new: Any) -> Any:
            decay = 1 - count.astype(old.dtype) ** -0.8
            return decay * old + (1 - decay) * new

        row = jax.tree.map(lambda r, g: average(r, _rows(g)), state.row, updates)
        column = jax.tree.map(lambda c, g: average(c, _columns(g)), state.column, updates)
        directions = jax.tree.map(_direction, updates, row, column)
        ema = optax.tree.update_moment(directions, state.ema, b1, 1)
        return ema, ScaleByAdafactorState(count, row, column, ema)

    return in_float32(optax.GradientTransformation(init, update))


def _direction(
    g: Float[Array, "*shape"], row: Float[Array, "*rows"], column: Float[Array, "*columns"]
) -> Float[Array, "*shape"]:
    share = row / jnp.mean(row, -1, keepdims=True)
    u = jnp.atleast_2d(g) * jax.lax.rsqrt(share)[..., None] * jax.lax.rsqrt(column)[..., None, :]
    size = jnp.sqrt(jnp.mean(jnp.square(u), (-2, -1), keepdims=True))
    return (u / jnp.maximum(size, 1)).reshape(g.shape)


def _mean_square(axis: int, g: Float[Array, "*shape"]) -> Float[Array, "*means"]:
    return jnp.mean(jnp.square(jnp.atleast_2d(g)) + 1e-30, axis)


_rows, _columns = functools.partial(_mean_square, -1), functools.partial(_mean_square, -2)

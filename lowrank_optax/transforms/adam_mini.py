"""Adam-mini: one second moment for each column of a matrix."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from lowrank_optax.linalg.arguments import check_b2, check_fraction
from lowrank_optax.transforms.precision import in_float32


class ScaleByAdamMiniState(NamedTuple):
    """State of `scale_by_adam_mini`."""

    count: Int[Array, ""]  # type: ignore[assignment]
    mu: Any  # first moments, like the updates
    nu: Any  # second moments, (..., 1, m) for an update (..., r, m); at least float32


def scale_by_adam_mini(
    b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8
) -> optax.GradientTransformation:
    """Adam with one second moment per output neuron.

    m ← b1 m + (1 − b1) g; v ← b2 v + (1 − b2) mean(g²), the mean over the last axis but one; the
    direction is m̂ / (√v̂ + eps) with Adam's bias correction.

    A low-rank array (..., r, m) so has m second moments. Where the *in* side of the weight is
    compressed, its columns are output neurons, as in the paper; where the *out* side is, they are
    inputs. (`compress="in"` makes them output neurons everywhere.) The mean over a whole column
    does not depend on the basis of the subspace. By itself, for a kernel (in, out), there is one
    for every output neuron. A vector or a scalar has one second moment in all.

    Args:
      b1, b2: decays of the first and the second moment.
      eps: added to the square root of the corrected second moment.

    Raises:
      ValueError: a decay lies outside [0, 1].

    Reference:
      arXiv 2406.16793, algorithm 1.
      Differs from the published code in one block per column for every matrix; there, queries and
      keys have one per head.

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.transforms.adam_mini import scale_by_adam_mini
      >>> params = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
      >>> state = scale_by_adam_mini().init(params)
      >>> state.nu["w"].shape, state.nu["b"].shape
      ((1, 3), (1,))
    """
    check_fraction("b1", b1)
    check_b2(b2)

    def init(params: Any) -> ScaleByAdamMiniState:
        # Of the shape and, under Explicit axes, of the sharding that updates have.
        zero = lambda leaf: jnp.zeros_like(jax.eval_shape(_mean_square, leaf))
        nu = jax.tree.map(zero, params)
        return ScaleByAdamMiniState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params), nu)

    def update(
        updates: Any, state: ScaleByAdamMiniState, params: Any = None
    ) -> tuple[Any, ScaleByAdamMiniState]:
        del params
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(jax.tree.map(_mean_square, updates), state.nu, b2, 1)
        directions = jax.tree.map(
            lambda m, v: m / (jnp.sqrt(v) + eps),
            optax.tree.bias_correction(mu, b1, count),
            optax.tree.bias_correction(nu, b2, count),
        )
        return directions, ScaleByAdamMiniState(count, mu, nu)

    return in_float32(optax.GradientTransformation(init, update))


def _mean_square(g: Float[Array, "*shape"]) -> Float[Array, "*columns"]:
    return jnp.mean(jnp.square(g), axis=max(g.ndim - 2, 0), keepdims=True) if g.ndim else g * g

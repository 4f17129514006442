"""Transformations run in float32 whatever they are fed."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lowrank_optax.linalg.precision import at_least_float32, wide_dtype


def in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Run a transformation in at least float32 and return updates of the types that came in.

    In bfloat16 b2 = 0.999 is 1, and a second moment never decays; in float16 the square of 1e-5 is
    0. So updates are widened before, and whatever the state holds is float32, or float64 for
    float64 updates.

    Args:
      inner: a transformation that reads no parameters.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from lowrank_optax.transforms.precision import in_float32
      >>> state = in_float32(optax.scale_by_adam()).init(jnp.zeros(2, jnp.bfloat16))
      >>> state.mu.dtype.name, state.nu.dtype.name
      ('float32', 'float32')
    """

    # The name of the optimizer, for messages.
    @functools.wraps(inner.init)
    def init(params: Any) -> Any:
        zeros = lambda x: jnp.zeros_like(x, dtype=wide_dtype(x.dtype))
        return inner.init(jax.tree.map(zeros, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        directions, state = inner.update(jax.tree.map(at_least_float32, updates), state)
        return optax.tree.cast_like(directions, updates), state

    return optax.GradientTransformation(init, update)

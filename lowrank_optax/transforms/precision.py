"""Transformations run in float32 whatever they are fed, with the first moment as one likes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import DTypeLike

from lowrank_optax.linalg.precision import at_least_float32, wide_dtype


def in_float32(
    inner: optax.GradientTransformation, *, moment: str = "mu", mu_dtype: DTypeLike | None = None
) -> optax.GradientTransformation:
    """Run a transformation in at least float32 and return updates of the types that came in.

    In bfloat16 b2 = 0.999 is 1, and a second moment never decays; in float16 the square of 1e-5 is
    0. So updates are widened before, and whatever the state holds is float32, or float64 for
    float64 updates. Only the first moment can be stored narrower: it is read into the wide type
    before it is decayed, and rounded after the direction has been made of it.

    Args:
      inner: a transformation that reads no parameters.
      moment: the field of its state that holds the first moment.
      mu_dtype: type in which that is stored; None for the updates', but at least float32.

    Raises:
      ValueError: mu_dtype is no floating type.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from lowrank_optax.transforms.precision import in_float32
      >>> tx = in_float32(optax.scale_by_adam(), mu_dtype=jnp.bfloat16)
      >>> state = tx.init(jnp.zeros(2, jnp.bfloat16))
      >>> state.mu.dtype.name, state.nu.dtype.name
      ('bfloat16', 'float32')
    """
    if mu_dtype is not None and not jnp.issubdtype(mu_dtype, jnp.floating):
        raise ValueError(f"mu_dtype={mu_dtype!r} must be a floating type, or None.")

    # The name of the optimizer, for messages.
    @functools.wraps(inner.init)
    def init(params: Any) -> Any:
        zeros = lambda x: jnp.zeros_like(x, dtype=wide_dtype(x.dtype))
        state = inner.init(jax.tree.map(zeros, params))
        if mu_dtype is None:
            return state
        return state._replace(**{moment: optax.tree.cast(getattr(state, moment), mu_dtype)})

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        wide = state._replace(**{moment: _widen(getattr(state, moment))})
        directions, new = inner.update(_widen(updates), wide)
        return optax.tree.cast_like(directions, updates), optax.tree.cast_like(new, state)

    return optax.GradientTransformation(init, update)


def _widen(tree: Any) -> Any:
    return jax.tree.map(at_least_float32, tree)

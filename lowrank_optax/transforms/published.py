"""Directions as published code has them, where optax's optimizer of the same name differs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from lowrank_optax.linalg.arguments import check_b2, check_fraction
from lowrank_optax.transforms.precision import in_float32


def scale_by_published_adam(
    b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8
) -> optax.GradientTransformation:
    """Adam with eps on the uncorrected second moment, as GaLore's code has it.

    u = √(1 − b2ᵗ) / (1 − b1ᵗ) · m / (√v + eps); the state is optax's. In terms of the corrected
    moments, eps becomes eps / √(1 − b2ᵗ), some 32 times larger at the first step.

    Args:
      b1, b2: decays of the first and the second moment.
      eps: added to √v.

    Raises:
      ValueError: a decay lies outside [0, 1].

    Reference:
      arXiv 2403.03507, algorithm 1, as implemented.

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.transforms import scale_by_published_adam
      >>> tx = scale_by_published_adam(eps=0.0)
      >>> u, _ = tx.update(jnp.array([3.0, -2.0]), tx.init(jnp.zeros(2)))
      >>> [round(value, 4) for value in u.tolist()]
      [1.0, -1.0]
    """
    correct = lambda u, count: u * _correction(b1, b2, count).astype(u.dtype)
    return _adam(b1, b2, eps, correct)


def scale_by_uncorrected_adam(
    b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8
) -> optax.GradientTransformation:
    """Adam without bias correction, u = m / (√v + eps).

    For methods that use the direction inside a step and correct the step as a whole, by
    `scale_by_adam_bias_correction`. Arguments and state: as for `scale_by_published_adam`.

    Reference:
      arXiv 2410.01623, algorithm 1, as implemented.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from lowrank_optax import transforms
      >>> tx = optax.chain(
      ...     transforms.scale_by_uncorrected_adam(eps=0.0),
      ...     transforms.scale_by_adam_bias_correction(),
      ... )
      >>> u, _ = tx.update(jnp.array([3.0, -2.0]), tx.init(jnp.zeros(2)))
      >>> [round(value, 4) for value in u.tolist()]
      [1.0, -1.0]
    """
    return _adam(b1, b2, eps, lambda u, count: u)


def scale_by_adam_bias_correction(b1: Any = 0.9, b2: Any = 0.999) -> optax.GradientTransformation:
    """Multiply the t-th update by √(1 − b2ᵗ) / (1 − b1ᵗ), t = 1, 2, …; the state is the count.

    Args:
      b1, b2: decays of the first moment, below 1, and of the second.

    Raises:
      ValueError: a decay lies outside [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.transforms import scale_by_adam_bias_correction
      >>> tx = scale_by_adam_bias_correction(b1=0.5, b2=0.75)
      >>> tx.update(jnp.array([1.0]), tx.init(jnp.zeros(1)))[0].tolist()
      [1.0]
    """
    check_fraction("b1", b1)
    check_b2(b2)
    return optax.scale_by_schedule(lambda count: _correction(b1, b2, optax.safe_increment(count)))


def scale_by_unsigned_lion(b1: Any = 0.9, b2: Any = 0.99) -> optax.GradientTransformation:
    """Lion's direction before its sign: u = b1 m + (1 − b1) g, then m ← b2 m + (1 − b2) g.

    For methods that take the sign after leaving the subspace: follow with `optax.scale_by_sign`.
    The state is optax's.

    Args:
      b1: weight of the momentum in the direction.
      b2: decay of the momentum.

    Raises:
      ValueError: a decay lies outside [0, 1].

    Reference:
      arXiv 2302.06675, program 1; arXiv 2408.12857, as implemented.

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.transforms import scale_by_unsigned_lion
      >>> tx = scale_by_unsigned_lion(b1=0.5, b2=0.5)
      >>> u, state = tx.update(jnp.array([2.0]), tx.init(jnp.zeros(1)))
      >>> u.tolist(), tx.update(jnp.array([0.0]), state)[0].tolist()
      ([1.0], [0.5])
    """
    check_fraction("b1", b1)
    check_b2(b2)

    lion = optax.scale_by_lion(b1, b2)

    def update(
        updates: Any, state: optax.ScaleByLionState, params: Any = None
    ) -> tuple[Any, optax.ScaleByLionState]:
        direction = optax.tree.update_moment(updates, state.mu, b1, 1)
        return direction, lion.update(updates, state, params)[1]

    return in_float32(optax.GradientTransformation(lion.init, update))


def _adam(
    b1: Any, b2: Any, eps: Any, finish: Callable[[Array, Array], Array]
) -> optax.GradientTransformation:
    """m / (√v + eps), and what `finish` makes of it at the count t, from 1."""
    check_fraction("b1", b1)
    check_b2(b2)
    # Its moments are what we need; its direction is compiled away.
    adam = optax.scale_by_adam(b1, b2, eps)

    def update(
        updates: Any, state: optax.ScaleByAdamState, params: Any = None
    ) -> tuple[Any, optax.ScaleByAdamState]:
        state = adam.update(updates, state, params)[1]
        direction = lambda m, v: finish(m / (jnp.sqrt(v) + eps), state.count)
        return jax.tree.map(direction, state.mu, state.nu), state

    return in_float32(optax.GradientTransformation(adam.init, update))


def _correction(b1: Any, b2: Any, count: Array) -> Array:
    return jnp.sqrt(1 - b2**count) / (1 - b1**count)

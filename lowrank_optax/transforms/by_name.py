"""Inner optimizers by name: what turns the coordinates in the subspace into a direction."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from lowrank_optax.transforms.adam8bit import scale_by_adam8bit
from lowrank_optax.transforms.adam_mini import scale_by_adam_mini

Inner: TypeAlias = str | optax.GradientTransformation
"""What recipes take as `inner=`: a name of `CHOICES`, or any optax transformation."""

CHOICES: dict[str, Callable[[Any, Any, Any], optax.GradientTransformation]] = {
    "adam": optax.scale_by_adam,
    "adam8bit": scale_by_adam8bit,
    "adam_mini": scale_by_adam_mini,
    "adafactor": lambda b1, b2, eps: _adafactor(b1),
    "lion": lambda b1, b2, eps: optax.scale_by_lion(b1, b2),
    "sgd": lambda b1, b2, eps: optax.trace(b1),
}
"""What the inner optimizer can be called, each a function of (b1, b2, eps)."""


def resolve(
    inner: Any, *, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8
) -> optax.GradientTransformation:
    """Turn what `inner=` takes into a transformation.

    Args:
      inner: "adam", "adam8bit", "adam_mini", "adafactor" (Adafactor's factored second moment and
        clipping, then a first moment with decay b1), "lion", "sgd" (momentum b1), or any optax
        transformation, which is returned as it is.
      b1: decay of the first moment.
      b2: decay of the second moment, or of Lion's momentum.
      eps: Adam's.

    Raises:
      ValueError: the name is unknown.
      TypeError: `inner` is neither a name nor a transformation.

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax import transforms
      >>> tx = transforms.resolve("sgd", b1=0.5)
      >>> tx.init(jnp.zeros(2)).trace.shape
      (2,)
    """
    if isinstance(inner, optax.GradientTransformation):
        return inner
    if not isinstance(inner, str):
        raise TypeError(
            f"inner={inner!r} must be one of {tuple(CHOICES)} or an optax.GradientTransformation."
        )
    if inner not in CHOICES:
        raise ValueError(
            f"inner={inner!r} is unknown; use one of {tuple(CHOICES)}, or any "
            "optax.GradientTransformation."
        )
    return CHOICES[inner](b1, b2, eps)


def _adafactor(b1: Any) -> optax.GradientTransformation:
    """Adafactor without its own step sizes; low-rank arrays are factored however thin."""
    rms = optax.scale_by_factored_rms(min_dim_size_to_factor=2)
    widen = lambda tree: jax.tree.map(_widen, tree)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        # It reads nothing but the parameters' shapes. Its 1e-30 needs float32.
        del params
        wide = widen(updates)
        scaled, state = rms.update(wide, state, wide)
        return optax.tree.cast_like(scaled, updates), state

    return optax.chain(
        optax.GradientTransformation(lambda params: rms.init(widen(params)), update),
        optax.clip_by_block_rms(1.0),
        optax.ema(b1, debias=False),
    )


def _widen(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))

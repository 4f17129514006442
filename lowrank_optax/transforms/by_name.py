"""Inner optimizers by name: what turns the coordinates in the subspace into a direction."""

from collections.abc import Callable
from typing import Any, TypeAlias

import optax

from lowrank_optax.linalg.arguments import check_b2, check_fraction
from lowrank_optax.transforms.adafactor import scale_by_adafactor
from lowrank_optax.transforms.adam8bit import scale_by_adam8bit
from lowrank_optax.transforms.adam_mini import scale_by_adam_mini
from lowrank_optax.transforms.precision import in_float32

Inner: TypeAlias = str | optax.GradientTransformation
"""What recipes take as `inner=`: a name of `CHOICES`, or any optax transformation."""

CHOICES: dict[str, Callable[[Any, Any, Any], optax.GradientTransformation]] = {
    "adam": lambda b1, b2, eps: in_float32(optax.scale_by_adam(b1, b2, eps)),
    "adam8bit": scale_by_adam8bit,
    "adam_mini": scale_by_adam_mini,
    "adafactor": lambda b1, b2, eps: scale_by_adafactor(b1),
    "lion": lambda b1, b2, eps: in_float32(optax.scale_by_lion(b1, b2)),
    "sgd": lambda b1, b2, eps: in_float32(optax.trace(b1)),
}
"""What the inner optimizer can be called, each a function of (b1, b2, eps)."""


def resolve(
    inner: Any,
    *,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
) -> optax.GradientTransformation:
    """Turn what `inner=` takes into a transformation.

    Those with a name compute in at least float32 whatever they are fed, see `in_float32`.

    Args:
      inner: "adam", "adam8bit", "adam_mini", "adafactor" (Adafactor's factored second moment and
        clipping, then a first moment with decay b1), "lion", "sgd" (momentum b1), or any optax
        transformation, which is returned as it is.
      b1, b2: decays of the first and the second moment; b2 also of Lion's momentum.
      eps: Adam's.

    Raises:
      ValueError: the name is unknown, or a decay is not in [0, 1].
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
    check_fraction("b1", b1)
    check_b2(b2)
    return CHOICES[inner](b1, b2, eps)

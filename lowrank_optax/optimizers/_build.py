"""What all named methods share: decay, learning rate, and a fallback for other leaves."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from lowrank_optax.core.dimension_numbers import DimensionNumbers
from lowrank_optax.core.matrices import matrix_specs
from lowrank_optax.sharding.synchronise import average_gradients
from lowrank_optax.sharding.zero import zero


def optimizer(
    scale_by: Callable[..., optax.GradientTransformation],
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: Any,
    mask: Any,
    dimension_numbers: DimensionNumbers,
    fallback: optax.GradientTransformation | None,
    zero_axis: Any,
    sync_axis: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """`scale_by` with decay and learning rate on the matrices, `fallback` on all other leaves.

    Args:
      scale_by: makes the transformation of the matrices from `dimension_numbers` and `zero_axis`.
      learning_rate: a number or a schedule.
      weight_decay: decoupled, multiplied by the learning rate.
      mask: tree or function of booleans: where to apply weight decay.
      dimension_numbers: which leaves are matrices, as for `matrix_specs`.
      fallback: optimizer of all other leaves; None for AdamW with the same learning rate, weight
        decay and mask.
      zero_axis: mesh axis or axes over which all state is split.
      sync_axis: axis of `jax.shard_map` over which the other leaves' gradients are averaged, if
        they come as every device's own.
    """

    def descend(scale: optax.GradientTransformation) -> optax.GradientTransformation:
        # Without decay nothing needs the parameters, so `update(grads, state)` will do.
        decays = not (isinstance(weight_decay, int | float) and weight_decay == 0)
        return optax.chain(
            scale,
            optax.add_decayed_weights(weight_decay, mask) if decays else optax.identity(),
            optax.scale_by_learning_rate(learning_rate),
        )

    def labels(params: Any) -> Any:
        table = matrix_specs(params, dimension_numbers=dimension_numbers)
        return jax.tree.unflatten(
            jax.tree.structure(params),
            ["matrices" if spec is not None else "other" for spec in table],
        )

    other = zero(fallback or descend(optax.scale_by_adam()), zero_axis)
    if sync_axis is not None:
        other = optax.chain(average_gradients(sync_axis), other)
    return optax.partition(
        {
            "matrices": descend(scale_by(dimension_numbers=dimension_numbers, zero_axis=zero_axis)),
            "other": other,
        },
        labels,
    )

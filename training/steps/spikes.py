"""Loss spikes: updates from gradients that are not finite, or far too large, can be left out."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from training.config.groups import SpikeOptions

WINDOW = 100  # updates that the mean norm is taken over, the newest weighing most
FIRST_UPDATES = 20  # of which none is an outlier
MOST_NONFINITE = 20  # in a row; then a run has diverged


class SpikeStatistics(NamedTuple):
    """Scalars that the rule depends on, and what it has done."""

    skipped: jax.Array  # int32, updates left out so far
    nonfinite_in_a_row: jax.Array  # int32, of them the last ones that were not finite
    num_norms: jax.Array  # int32, in the mean
    mean_norm: jax.Array  # float32


class SkipSpikesState(NamedTuple):
    """State of `skip_spikes`."""

    statistics: SpikeStatistics
    optimizer: optax.ConditionallyMaskState  # with the optimizer's own state


def skip_spikes(
    optimizer: optax.GradientTransformation, outlier_factor: float | None
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that makes no step, and whose state does not change, at a spike.

    An update is left out if the loss or the norm g of the whole gradient is not finite, or, unless
    the factor is None, if g > outlier_factor * mean, once the mean is of 20 norms. The mean is that
    of all norms until there are 100, and then moves by 1 / 100 of the way to each new one:

        mean <- mean + (min(g, outlier_factor * mean) - mean) / min(count, 100)

    Outliers enter it as if they were at the bound, so that a lasting change of scale is followed
    after some updates rather than left out for ever. Norms that are not finite do not enter it.

    `update` takes the loss, a scalar, as the extra argument `loss`.
    """
    masked = optax.conditionally_mask(
        optimizer, lambda step, *, accepted, **_: accepted, forward_extra_args=True
    )

    def init(params: optax.Params) -> SkipSpikesState:
        zero = jnp.int32(0)
        statistics = SpikeStatistics(zero, zero, zero, jnp.float32(0))
        return SkipSpikesState(statistics, masked.init(params))

    def update(
        gradient: optax.Updates,
        state: SkipSpikesState,
        params: optax.Params | None = None,
        *,
        loss: jax.Array,
        **extra_args: Any,
    ) -> tuple[optax.Updates, SkipSpikesState]:
        norm = optax.tree.norm(gradient).astype(jnp.float32)
        accepted, statistics = _judge(state.statistics, norm, loss, outlier_factor)
        updates, optimizer_state = masked.update(
            gradient, state.optimizer, params, accepted=accepted, **extra_args
        )
        return updates, SkipSpikesState(statistics, optimizer_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _judge(
    before: SpikeStatistics, norm: jax.Array, loss: jax.Array, outlier_factor: float | None
) -> tuple[jax.Array, SpikeStatistics]:
    """Whether an update is accepted, and the statistics after it."""
    finite = jnp.isfinite(norm) & jnp.isfinite(loss)
    accepted, counted = finite, norm
    if outlier_factor is not None:
        settled = before.num_norms >= FIRST_UPDATES
        bound = jnp.where(settled, outlier_factor * before.mean_norm, jnp.inf)
        accepted, counted = finite & (norm <= bound), jnp.minimum(norm, bound)
    num_norms = before.num_norms + finite
    weight = 1 / jnp.clip(num_norms, 1, WINDOW)
    mean = before.mean_norm + (counted - before.mean_norm) * weight
    return accepted, SpikeStatistics(
        skipped=before.skipped + ~accepted,
        nonfinite_in_a_row=jnp.where(finite, 0, before.nonfinite_in_a_row + 1),
        num_norms=num_norms,
        mean_norm=jnp.where(finite, mean, before.mean_norm),
    )


def without_spikes(
    optimizer: optax.GradientTransformation, options: SpikeOptions
) -> optax.GradientTransformation:
    """The optimizer by the options; itself, where they leave nothing out."""
    if options.skip_updates is None:
        return optimizer
    outliers = options.skip_updates == "outlier"
    return skip_spikes(optimizer, options.outlier_factor if outliers else None)


def spike_metrics(optimizer_state: optax.OptState) -> dict[str, jax.Array]:
    """What a step reports of a `SkipSpikesState`; nothing for any other state."""
    if not isinstance(optimizer_state, SkipSpikesState):
        return {}
    statistics = optimizer_state.statistics
    return {
        "skipped_updates": statistics.skipped,
        "nonfinite_in_a_row": statistics.nonfinite_in_a_row,
    }


def checked_metrics(
    values: Mapping[str, Any], options: SpikeOptions
) -> tuple[dict[str, float | None], str]:
    """A step's metrics as they are written, and why the run cannot go on, or "".

    A loss or norm that is not finite is written as None, where the options leave updates out.
    """
    first = ("loss", "grad_norm", "learning_rate")  # compiled functions return names in order
    names = [*first, *sorted(values.keys() - set(first))]
    metrics = {name: values[name].item() for name in names}
    in_a_row = metrics.pop("nonfinite_in_a_row", 0)
    problem = ""
    if in_a_row >= MOST_NONFINITE:
        problem = f"{in_a_row} updates in a row were left out, as they were not finite,"
    for name in ("loss", "grad_norm"):
        if not math.isfinite(metrics[name]):
            problem = problem or ("" if options.skip_updates else f"{name} is {metrics[name]}")
            metrics[name] = None
    return metrics, problem

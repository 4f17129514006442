"""What is the same in all steps of a run, but not compiled into them: runs may differ in it."""

from typing import Any, NamedTuple

import jax
import numpy as np

from training.config.resolved import Variant

_ROUNDING = 0x524F554E  # folded into a run's key: that of the weights is made of the seed alone


class StepArguments(NamedTuple):
    """Arguments of every step besides the state and a batch."""

    peaks: Any  # float32 (2,), of the matrices' learning rate and of the fallback's
    rounding_key: Any  # uint32 (2,), with the step the key of --rounding stochastic; else unused


def step_arguments(variant: Variant) -> StepArguments:
    """The arguments of a run's steps, as arrays of the host."""
    peaks = np.array([variant.learning_rate, variant.fallback_learning_rate], np.float32)
    key = jax.random.fold_in(jax.random.key(variant.seed), _ROUNDING)
    return StepArguments(peaks, np.asarray(jax.random.key_data(key)))

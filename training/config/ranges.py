"""The values that options may have, as far as no device, file or optimizer has a say in it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from training.errors import UserError, as_flag


def _is_rank(value: int | float) -> bool:
    return 0 < value <= 1 if isinstance(value, float) else value >= 1


# What a value must be -> whether it is, and the options.
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "at least 1": (
        lambda value: value >= 1,
        "steps batch_size seq_len eval_batches accumulate_steps keep_checkpoints log_every "
        "num_processes coordinator_timeout max_new_tokens limit samples seeds",
    ),
    "0 or more": (
        lambda value: value >= 0,
        "checkpoint_every eval_every keep_every keep_best diagnostics_every clip_norm weight_decay "
        "warmup_steps seed temperature",
    ),
    "greater than 0": (
        lambda value: 0 < value < math.inf,
        "learning_rate fallback_learning_rate epochs",
    ),
    "0 or more and less than 1": (lambda value: 0 <= value < 1, "ema_decay"),
    "between 0 and 1": (lambda value: 0 < value < 1, "validation_fraction"),
    "above 0 and at most 1": (lambda value: 0 < value <= 1, "top_p"),
    "from 0 to 1": (lambda value: 0 <= value <= 1, "final_learning_rate_ratio decay_fraction"),
    "an integer >= 1 or a fraction in (0, 1]": (_is_rank, "rank"),
    "greater than 1": (lambda value: 1 < value < math.inf, "outlier_factor"),
}


def check_ranges(values: Mapping[str, Any]) -> None:
    """Checks options by themselves and against each other; None is left to a default."""
    for expected, (is_right, names) in _RANGES.items():
        for name in names.split():
            value = values.get(name)
            if value is not None and not is_right(value):
                raise UserError(f"{as_flag(name)} is {value}, but must be {expected}")
    if weights := values.get("data_weights"):
        _check_weights(weights, values["data"])
    if values.get("init_state") == "shared" and values["init_from"] is None:
        raise UserError("--init-state shared is for --init-from RUN: add that")
    if values.get("rounding") == "stochastic" and values["param_dtype"] != "bfloat16":
        raise UserError("--rounding stochastic is for --param-dtype bfloat16")


def _check_weights(weights: Sequence[float], data: Sequence[str]) -> None:
    given = " ".join(f"{weight:g}" for weight in weights)
    if len(weights) != len(data):
        raise UserError(
            f"--data-weights {given}: expected a number for each of --data {' '.join(data)}"
        )
    if not all(0 < weight < math.inf for weight in weights):
        raise UserError(
            f"--data-weights {given}: all must be greater than 0; leave out of --data what is not "
            "to be read"
        )

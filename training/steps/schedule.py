"""Learning rates over a run."""

import optax

from training.config.resolved import Schedule


def learning_rate_schedule(schedule: Schedule) -> optax.Schedule:
    """Learning rate over its peak, as a function of the steps done: linear warm-up from
    1 / warmup_steps, then the configured shape down to `final_learning_rate_ratio`."""
    warmup = schedule.warmup_steps
    decay_steps = max(1, schedule.steps - warmup)
    decay = {
        "cosine": optax.cosine_decay_schedule(1.0, decay_steps, schedule.final_learning_rate_ratio),
        "linear": optax.linear_schedule(1.0, schedule.final_learning_rate_ratio, decay_steps),
        "wsd": _constant_then_linear(schedule),
        "constant": optax.constant_schedule(1.0),
    }[schedule.schedule]
    if not warmup:
        return decay
    rise = optax.linear_schedule(1 / warmup, 1.0, max(1, warmup - 1))
    return optax.join_schedules([rise, decay], [warmup])


def _constant_then_linear(schedule: Schedule) -> optax.Schedule:
    """Of the steps after the warm-up (2405.18392, "cooldown": what comes before it does not depend
    on where the run ends)."""
    start = max(0, schedule.decay_start - schedule.warmup_steps)
    length = schedule.steps - schedule.warmup_steps - start
    fall = optax.linear_schedule(1.0, schedule.final_learning_rate_ratio, max(1, length))
    return optax.join_schedules([optax.constant_schedule(1.0), fall], [start])

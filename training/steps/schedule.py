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
        "constant": optax.constant_schedule(1.0),
    }[schedule.schedule]
    if not warmup:
        return decay
    rise = optax.linear_schedule(1 / warmup, 1.0, max(1, warmup - 1))
    return optax.join_schedules([rise, decay], [warmup])

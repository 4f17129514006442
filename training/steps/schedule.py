"""Learning rates over a run."""

import optax

from training.config.pretraining import TrainingConfig


def learning_rate_schedule(config: TrainingConfig) -> optax.Schedule:
    """Learning rate over its peak, as a function of the steps done: linear warm-up from
    1 / warmup_steps, then the configured schedule down to `final_learning_rate_ratio`."""
    warmup = config.warmup_steps or 0
    decay_steps = max(1, config.steps - warmup)
    decay = {
        "cosine": optax.cosine_decay_schedule(1.0, decay_steps, config.final_learning_rate_ratio),
        "linear": optax.linear_schedule(1.0, config.final_learning_rate_ratio, decay_steps),
        "constant": optax.constant_schedule(1.0),
    }[config.schedule]
    if not warmup:
        return decay
    rise = optax.linear_schedule(1 / warmup, 1.0, max(1, warmup - 1))
    return optax.join_schedules([rise, decay], [warmup])

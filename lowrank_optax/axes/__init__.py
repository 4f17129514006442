"""The five axes; the inner optimizers are in `lowrank_optax.transforms`."""

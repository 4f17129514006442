"""Training of the example models: data, loop, checkpoints and reports."""

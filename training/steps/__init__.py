"""What is compiled: losses, optimizers, the training step, on a mesh of devices."""

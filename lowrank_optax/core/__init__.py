"""The engine, and how a pytree is seen as matrices."""

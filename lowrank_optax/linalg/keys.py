"""Random keys that must be there."""

from jaxtyping import PRNGKeyArray


def require_key(key: PRNGKeyArray | None, purpose: str) -> PRNGKeyArray:
    """The key, for whoever cannot do without one.

    Args:
      key: a random key, or None.
      purpose: what draws at random, for the message.

    Raises:
      ValueError: if there is no key.

    Example:
      >>> from lowrank_optax.linalg.keys import require_key
      >>> require_key(None, "select='uniform'")
      Traceback (most recent call last):
          ...
      ValueError: select='uniform' draws at random: pass a key such as jax.random.key(0), not None.
    """
    if key is None:
        raise ValueError(
            f"{purpose} draws at random: pass a key such as jax.random.key(0), not None."
        )
    return key

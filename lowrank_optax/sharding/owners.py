"""Which parameter an array of an optimizer's state belongs to."""

from typing import Any

import jax

KeyPath = tuple[Any, ...]


def owner_finder(params: Any) -> Any:
    """A function from the path of an array in an optimizer's state to the parameter it belongs to.

    Works for any optax transformation: an array of the state belongs to the parameter whose path
    its own path contains, the longest if there are several.

    Args:
      params: pytree whose structure is that of the parameters.

    Returns:
      A function from a key path to the position in `jax.tree.leaves(params)`, or None.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from lowrank_optax.sharding.owners import owner_finder
      >>> params = {"a": jnp.ones(1), "b": jnp.ones(2)}
      >>> owner = owner_finder(params)
      >>> state = optax.trace(0.9).init(params)
      >>> [owner(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
      [0, 1]
    """
    paths = {path: i for i, (path, _) in enumerate(jax.tree_util.tree_leaves_with_path(params))}

    def owner(state_path: KeyPath) -> int | None:
        for length in range(len(state_path), -1, -1):
            for start in range(len(state_path) - length + 1):
                found = paths.get(state_path[start : start + length])
                if found is not None:
                    return found
        return None

    return owner

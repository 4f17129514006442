"""Weight decay where it agrees with the step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def add_cautious_decay(weight_decay: Any, mask: Any = None) -> optax.GradientTransformation:
    """Add λ W to the direction u, but only to entries whose step points towards zero as well.

    u ← u + λ W where u W > 0, and u elsewhere; so decay never slows the step that the gradient
    asks for. In place of `optax.add_decayed_weights`.

    Args:
      weight_decay: λ, a number or a schedule, as for `optax.add_decayed_weights`.
      mask: tree or function of booleans: where to apply it, as for `optax.add_decayed_weights`.

    Raises:
      ValueError: if it is called without parameters.

    Reference:
      arXiv 2510.12402 (cautious weight decay).

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.transforms import add_cautious_decay
      >>> tx = add_cautious_decay(0.1)
      >>> W, u = jnp.array([1.0, -1.0]), jnp.array([2.0, 2.0])
      >>> tx.update(u, tx.init(W), W)[0].tolist()
      [2.0999999046325684, 2.0]
    """

    everywhere = optax.add_decayed_weights(weight_decay)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("weight decay needs params: call update(updates, state, params).")
        decayed, state = everywhere.update(updates, state, params)
        chosen = jax.tree.map(
            lambda u, W, both: jnp.where(u * W > 0, both.astype(u.dtype), u),
            updates,
            params,
            decayed,
        )
        return chosen, state

    tx = optax.GradientTransformation(everywhere.init, update)
    return tx if mask is None else optax.masked(tx, mask)

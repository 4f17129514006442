"""Gradients that are `None` beside a parameter that is an array: no update for it this time."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lowrank_optax.core.trees import is_none, path_string
from lowrank_optax.sharding.owners import state_owners


def without_none(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Let an optimizer take `None` in place of gradients.

    The update of such a parameter is None, and its part of the state stays as it is: an error that
    is fed back is not lost with an update that nobody applies. What the parameters share, such as
    a step count, advances.

    Update raises a ValueError where a gradient is None, there is state for it, and no parameters
    are given.
    """
    tx = optax.with_extra_args_support(tx)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        if params is None:
            _check_none(tx, updates, state)
            return tx.update(updates, state, **extra_args)
        # None may stand for a subtree of the parameters; beside None it is no gradient missing.
        missing = jax.tree.leaves(_beside(updates, params, lambda g, _: g is None))
        if not any(missing):
            return tx.update(updates, state, params, **extra_args)
        filled = _beside(updates, params, lambda g, p: jnp.zeros_like(p) if g is None else g)
        stepped, new_state = tx.update(filled, state, params, **extra_args)
        stepped = jax.tree.map(
            lambda g, u: None if g is None else u, updates, stepped, is_leaf=is_none
        )
        kept = [
            old if owner is not None and missing[owner] else new
            for owner, old, new in zip(
                state_owners(tx.init, params, state),
                jax.tree.leaves(state),
                jax.tree.leaves(new_state),
                strict=True,
            )
        ]
        return stepped, jax.tree.unflatten(jax.tree.structure(new_state), kept)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def _beside(updates: Any, params: Any, value: Any) -> Any:
    """`value(gradient, parameter)` at every parameter."""
    at_leaves = lambda g, p: jax.tree.map(lambda leaf: value(g, leaf), p)
    return jax.tree.map(at_leaves, updates, params, is_leaf=is_none)


def _check_none(tx: optax.GradientTransformation, updates: Any, state: Any) -> None:
    """Raise if a gradient is None whose parameter has state."""
    leaves = jax.tree_util.tree_leaves_with_path(updates, is_leaf=is_none)
    if not any(leaf is None for _, leaf in leaves):
        return
    standing_in = jax.tree.map(lambda g: 0 if g is None else g, updates, is_leaf=is_none)
    for owner in state_owners(tx.init, standing_in, state):
        if owner is not None and leaves[owner][1] is None:
            raise ValueError(
                f"the gradient of {path_string(leaves[owner][0])} is None, but there is state for "
                "it; pass the parameters to update, or a gradient of zeros."
            )

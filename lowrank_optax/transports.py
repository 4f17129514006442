"""The transport axis: what happens to the inner optimizer's moments when the subspace changes."""

from collections.abc import Callable
from typing import Any

import jax
import optax

Transport = Callable[
    [optax.GradientTransformation, Any, Any, Any, Any, Callable[[Any, Any, Any], Any]], Any
]
"""(inner, its state, tree of low-rank zeros, previous bases, current bases, carry) -> its state."""


def keep(
    inner: optax.GradientTransformation,
    state: Any,
    template: Any,
    previous: Any,
    current: Any,
    carry: Callable[[Any, Any, Any], Any],
) -> Any:
    """Leave every moment in its slot, whatever basis vector the slot now stands for (GaLore)."""
    del inner, template, previous, current, carry
    return state


def reset(
    inner: optax.GradientTransformation,
    state: Any,
    template: Any,
    previous: Any,
    current: Any,
    carry: Callable[[Any, Any, Any], Any],
) -> Any:
    """Start the inner optimizer anew, its step count included (FRUGAL)."""
    del state, previous, current, carry
    return inner.init(template)


def rotate(
    inner: optax.GradientTransformation,
    state: Any,
    template: Any,
    previous: Any,
    current: Any,
    carry: Callable[[Any, Any, Any], Any],
) -> Any:
    """Express every moment in the new subspace, x ← x Pᵀ_previous P_current (DCT-AdamW)."""
    shapes = jax.tree.map(lambda leaf: leaf.shape, template, is_leaf=_is_array)

    def move(x: Any, shape: tuple[int, ...], old: Any, new: Any) -> Any:
        return carry(x, old, new) if x.shape == shape else x

    return optax.tree.map_params(inner, move, state, shapes, previous, current)


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape")


TRANSPORTS: dict[str, Transport] = {"keep": keep, "reset": reset, "rotate": rotate}


def resolve(transport: str | Transport) -> Transport:
    """Turn a name into a transport.

    Raises:
      ValueError: if the name is unknown.
    """
    if callable(transport):
        return transport
    if transport not in TRANSPORTS:
        raise ValueError(f"transport={transport!r} is unknown; use one of {tuple(TRANSPORTS)}.")
    return TRANSPORTS[transport]

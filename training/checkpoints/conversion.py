"""Another optimizer's state from a checkpoint: what of it can be kept.

The states of single transformations are kept or begun anew as a whole, since a step count, say,
means nothing without the moments that it belongs to:

    ScaleByAdamState(count, mu, nu) of the embeddings      kept: all of its arrays are there
    LowRankState of the matrices, at another rank          new: its moments have other shapes
"""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from training.checkpoints.trees import by_path, describe
from training.steps.spikes import SkipSpikesState

# States of transformations that only hold those of others.
_WRAPPERS = (
    optax.transforms.PartitionState,
    optax.MaskedState,
    optax.ConditionallyMaskState,
    SkipSpikesState,
)


def kept_arrays(
    saved: Mapping[str, Any], state: optax.OptState, *, same_method: bool
) -> dict[str, str]:
    """The arrays of an optimizer's state that a checkpoint has, and where it has them.

    A transformation's state is there if each of its arrays is, of the same path, shape and type. If
    it is not where it was (the optimizer is now part of another one), the only state of the same
    fields that fits is taken.

    Args:
        saved: path -> array, or its shape and type, of the checkpoint's optimizer state.
        state: the new optimizer's, of arrays or their shapes and types.
        same_method: whether low-rank states mean what they did; if not, all of them are new, as
            equal shapes do not tell whether subspaces are.

    Returns:
        path in the new state -> path in the checkpoint.
    """
    kept: dict[str, str] = {}
    used: set[str] = set()
    units = jax.tree_util.tree_leaves_with_path(state, is_leaf=_is_unit)
    for path, unit in units:
        prefix = jax.tree_util.keystr(path, simple=True, separator="/")
        if "basis" in getattr(unit, "_fields", ()) and not same_method:
            continue
        arrays = {name: describe(array) for name, array in by_path(unit).items()}
        if not _is_unit(unit):  # an array by itself says nothing of what it is
            if prefix in saved and describe(saved[prefix]) == describe(unit):
                kept[prefix] = prefix
            continue
        places = [place for place in _places(saved, arrays) if place not in used]
        if prefix not in places and len(places) != 1:
            continue
        place = prefix if prefix in places else places[0]
        used.add(place)
        kept |= {_join(prefix, name): _join(place, name) for name in arrays}
    return kept


def _is_unit(node: Any) -> bool:
    """Whether this is the state of one transformation: a named tuple that is no wrapper."""
    return hasattr(node, "_fields") and not isinstance(node, _WRAPPERS)


def _places(saved: Mapping[str, Any], arrays: Mapping[str, str]) -> list[str]:
    """Paths under which the checkpoint has all of these arrays, and no other fields."""
    if not arrays:
        return []
    first = min(arrays)
    fields = {name.partition("/")[0] for name in arrays}
    places = []
    for path in saved:
        place = path[: -len(first)].rstrip("/")
        if path != _join(place, first):
            continue
        start = _join(place, "")
        found = {
            other.removeprefix(start): describe(array)
            for other, array in saved.items()
            if other.startswith(start)
        }
        same_fields = {name.partition("/")[0] for name in found} == fields
        if same_fields and all(found.get(name) == spec for name, spec in arrays.items()):
            places.append(place)
    return places


def _join(place: str, name: str) -> str:
    return f"{place}/{name}" if place else name

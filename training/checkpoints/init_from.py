"""`--init-from`: the beginning of a run with another run's parameters, and with what both
optimizers' states have in common, if that is asked for.

The states of single transformations are kept or begun anew as a whole, since a step count, say,
means nothing without the moments that it belongs to:

    ScaleByAdamState(count, mu, nu) of the embeddings      kept: all of its arrays are there
    LowRankState of the matrices, at another rank          new: its moments have other shapes
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import optax

from training.checkpoints.origin import (
    Origin,
    check_parameters,
    find_origin,
    read_arrays,
    read_parameters,
    read_tree,
)
from training.checkpoints.trees import by_path, describe, map_by_path
from training.config.pretraining import PretrainConfig, to_json
from training.runs.folder import read_config
from training.runs.summary import readable_bytes
from training.steps.compiled import CompiledSteps, TrainState
from training.steps.spikes import SkipSpikesState

# Options that decide what the arrays of a low-rank state mean, beside their shapes.
_METHOD = ("optimizer", "projection", "compress", "residual", "inner", "transport")

_STATE = "optimizer_state/"

# States of transformations that only hold those of others.
_WRAPPERS = (
    optax.transforms.PartitionState,
    optax.MaskedState,
    optax.ConditionallyMaskState,
    SkipSpikesState,
)


def init_from(
    config: PretrainConfig, steps: CompiledSteps, say: Callable[[str], None]
) -> tuple[TrainState, Origin]:
    """The state of a run before its first step.

    Args:
        config: with `init_from`.
        steps: compiled for it.
        say: prints a line.

    Returns:
        (state, the checkpoint).

    Raises:
        UserError: there is no checkpoint, or it is damaged or of another model.
    """
    origin = find_origin(config.init_from)
    expected = steps.abstract_state
    if config.init_state == "new":
        params = read_parameters(origin, expected.params)
        say(f"parameters of {origin.folder}; the optimizer's state is new")
        return steps.init_from(config, params), origin
    tree = read_tree(origin)
    check_parameters(origin, tree, expected.params)
    new = by_path(expected.optimizer_state)
    kept = _shared(config, origin, tree, expected.optimizer_state)
    wanted = {f"params/{path}": array for path, array in by_path(expected.params).items()}
    wanted |= {_STATE + place: new[path] for path, place in kept.items()}
    arrays = read_arrays(origin, wanted)
    params = map_by_path(lambda path, _: arrays[f"params/{path}"], expected.params)
    state = steps.init_from(config, params)
    optimizer_state = map_by_path(
        lambda path, own: arrays[_STATE + kept[path]] if path in kept else own,
        state.optimizer_state,
    )
    begun = new.keys() - kept.keys()
    say(
        f"parameters of {origin.folder}; of the optimizer's state {len(kept)} arrays "
        f"({_size(new[path] for path in kept)}) are its own too, {len(begun)} "
        f"({_size(new[path] for path in begun)}) are new"
    )
    return state._replace(optimizer_state=optimizer_state), origin


def _size(arrays: Iterable[Any]) -> str:
    return readable_bytes(sum(x.size * x.dtype.itemsize for x in arrays))


def _shared(
    config: PretrainConfig, origin: Origin, tree: Any, state: optax.OptState
) -> dict[str, str]:
    """`shared_arrays` of a checkpoint and a new state."""
    before, now = read_config(origin.run), to_json(config, "")
    saved = {
        path.removeprefix(_STATE): array
        for path, array in by_path(tree).items()
        if path.startswith(_STATE)
    }
    same_method = all(before.get(key) == now[key] for key in _METHOD)
    return shared_arrays(saved, state, same_method=same_method)


def shared_arrays(
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
    shared: dict[str, str] = {}
    used: set[str] = set()
    for path, unit in jax.tree_util.tree_leaves_with_path(state, is_leaf=_is_unit):
        prefix = jax.tree_util.keystr(path, simple=True, separator="/")
        if "basis" in getattr(unit, "_fields", ()) and not same_method:
            continue
        if not _is_unit(unit):  # an array by itself says nothing of what it is
            if prefix in saved and describe(saved[prefix]) == describe(unit):
                shared[prefix] = prefix
            continue
        arrays = {name: describe(array) for name, array in by_path(unit).items()}
        places = [place for place in _places(saved, arrays) if place not in used]
        if prefix not in places and len(places) != 1:
            continue
        place = prefix if prefix in places else places[0]
        used.add(place)
        shared |= {_join(prefix, name): _join(place, name) for name in arrays}
    return shared


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

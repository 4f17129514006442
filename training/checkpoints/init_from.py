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
from rich.filesize import decimal

from training.checkpoints.origin import Origin, read_parameters
from training.checkpoints.trees import by_path, describe, map_by_path
from training.config.options import flat
from training.config.record import recorded_options
from training.config.resolved import Variant
from training.steps.compiled import CompiledSteps
from training.steps.spikes import SkipSpikesState
from training.steps.update import TrainState

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
    origin: Origin,
    variant: Variant,
    steps: CompiledSteps,
    say: Callable[[str], None],
    *,
    share: bool,
) -> TrainState:
    """The state of a run before its first step, with the parameters in a checkpoint; with `share`
    also what of the optimizer's state both have."""
    expected = steps.abstract_state
    new = by_path(expected.optimizer_state)
    shared: dict[str, str] = {}
    if share:
        saved = by_path(origin.reader.read_tree(origin.step)["optimizer_state"])
        before, now = recorded_options(origin.reader.folder.parent), flat(steps.options.method)
        same_method = all(before.get(key) == now[key] for key in _METHOD)
        shared = shared_arrays(saved, expected.optimizer_state, same_method=same_method)
    more = {_STATE + place: new[path] for path, place in shared.items()}
    params, arrays = read_parameters(origin, expected.params, more)
    state = steps.init_from(variant, params)
    optimizer_state = map_by_path(
        lambda path, own: arrays[_STATE + shared[path]] if path in shared else own,
        state.optimizer_state,
    )
    begun = new.keys() - shared.keys()
    say(
        f"parameters of {origin.folder}; of the optimizer's state {len(shared)} arrays "
        f"({_size(new[path] for path in shared)}) are those of that run, {len(begun)} "
        f"({_size(new[path] for path in begun)}) are new"
    )
    return state._replace(optimizer_state=optimizer_state)


def _size(arrays: Iterable[Any]) -> str:
    return decimal(sum(x.size * x.dtype.itemsize for x in arrays), precision=2)


def shared_arrays(
    saved: Mapping[str, Any], state: optax.OptState, *, same_method: bool
) -> dict[str, str]:
    """Path in an optimizer's state -> path in a checkpoint's, for the arrays that the latter has.

    A transformation's state is there if each of its arrays is, of the same path, shape and type. If
    it is not where it was (the optimizer is now part of another one), the only state of the same
    fields that fits is taken.

    Args:
        saved: path -> array, or its shape and type, of the checkpoint's optimizer state.
        state: the new optimizer's, of arrays or their shapes and types.
        same_method: whether low-rank states mean what they did; if not, all of them are new, as
            equal shapes do not tell whether subspaces are.
    """
    shared: dict[str, str] = {}
    used: set[str] = set()
    described = {path: describe(array) for path, array in saved.items()}
    for path, unit in jax.tree_util.tree_leaves_with_path(state, is_leaf=_is_unit):
        prefix = jax.tree_util.keystr(path, simple=True, separator="/")
        if not _is_unit(unit):  # an array by itself says nothing of what it is
            if described.get(prefix) == describe(unit):
                shared[prefix] = prefix
            continue
        if "basis" in unit._fields and not same_method:
            continue
        arrays = {name: describe(array) for name, array in by_path(unit).items()}
        start = f"{prefix}/" if prefix else ""
        places = [place for place in _places(described, arrays) if place not in used]
        if start in places or len(places) == 1:
            place = start if start in places else places[0]
            used.add(place)
            shared |= {start + name: place + name for name in arrays}
    return shared


def _is_unit(node: Any) -> bool:
    """Whether this is the state of one transformation: a named tuple that is no wrapper."""
    return hasattr(node, "_fields") and not isinstance(node, _WRAPPERS)


def _places(saved: Mapping[str, str], arrays: Mapping[str, str]) -> list[str]:
    """Beginnings of paths under which a checkpoint has all of these arrays, and no other fields."""
    fields = {name.partition("/")[0] for name in arrays}
    first = min(arrays, default="")
    places = []
    for path in saved:
        start = path.removesuffix(first)
        found = {p.removeprefix(start): x for p, x in saved.items() if p.startswith(start)}
        if arrays.items() <= found.items() and {n.partition("/")[0] for n in found} == fields:
            places.append(start)
    return places if arrays else []

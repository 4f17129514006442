"""Where a run goes on from: its newest readable checkpoint, also under another optimizer."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import orbax.checkpoint as ocp

from training.checkpoints.conversion import kept_arrays
from training.checkpoints.history import change_is_ahead, former_configs, read_config, with_change
from training.checkpoints.manager import Checkpoints, UnreadableCheckpointError
from training.checkpoints.trees import by_path, describe_differences, map_by_path
from training.config.pretraining import PretrainConfig, to_json
from training.errors import UserError
from training.runs.folder import differing_options
from training.runs.summary import readable_bytes
from training.steps.compiled import CompiledSteps
from training.steps.update import TrainState

# Options that decide what the arrays of a low-rank state mean, beside their shapes.
_METHOD = ("optimizer", "projection", "compress", "residual", "inner", "transport")


@dataclasses.dataclass(frozen=True)
class Start:
    """The state that a run goes on from.

    Attributes:
        step: steps done.
        data_state: of the data iterator; None at the beginning.
        before: the run's former configurations, for config.json.
        notes: for the first record in metrics.jsonl.
    """

    step: int
    state: TrainState
    data_state: dict[str, Any] | None
    before: list[dict[str, Any]]
    notes: dict[str, int] = dataclasses.field(default_factory=dict)


def find_start(
    config: PretrainConfig,
    steps: CompiledSteps,
    checkpoints: Checkpoints,
    say: Callable[[str], None],
) -> Start:
    """A new run's random weights, or what the newest readable checkpoint holds.

    Checkpoints that cannot be read are moved aside, and that is said. All processes take the same.

    Args:
        config: resolved.
        steps: compiled for it.
        checkpoints: of the run.
        say: prints a line.

    Raises:
        UserError: if there are checkpoints and none can be read, or if one is of another model or
            optimizer; nothing was changed then.
    """
    saved = read_config(config.out) if config.resume else {}
    for step in checkpoints.unfinished:
        say(f"removed an unfinished save of step {step}, which was interrupted")
    unreadable: dict[int, str] = {}
    for step in checkpoints.steps():
        try:
            start = _read(config, steps, checkpoints, step, saved, say)
        except UnreadableCheckpointError as error:
            unreadable[step] = str(error)
            continue
        for damaged, reason in unreadable.items():
            target = checkpoints.set_aside(damaged)
            say(
                f"checkpoint {checkpoints.folder / str(damaged)} cannot be read: {reason}; moved "
                f"it to {target}"
            )
        if unreadable:
            say(f"continuing from the checkpoint before, of step {step}")
        return start
    if unreadable:
        reasons = "\n".join(f"  {step}: {reason}" for step, reason in unreadable.items())
        raise UserError(
            f"cannot resume {config.out}: none of its checkpoints can be read; nothing was changed"
            f"\n{reasons}\nRestore one of these folders of {checkpoints.folder} from a backup, or "
            "start a new run with another --out."
        )
    before = former_configs(saved)
    if config.change.asked:
        before = with_change(saved, 0, reset=config.change.reset_optimizer)
    return Start(0, steps.init(config), None, before)


def _read(
    config: PretrainConfig,
    steps: CompiledSteps,
    checkpoints: Checkpoints,
    step: int,
    saved: dict[str, Any],
    say: Callable[[str], None],
) -> Start:
    """The start at one checkpoint."""
    tree = checkpoints.read_tree(step)
    folder = checkpoints.folder / str(step)
    ahead = change_is_ahead(saved, step)
    if config.change.asked and (ahead or not _is_done(config, saved)):
        return _changed(config, steps, checkpoints, step, tree, saved, say)
    if config.change.asked:
        say(
            f"the optimizer was changed after step {former_configs(saved)[-1]['until_step']} "
            "already: its state is kept from now on"
        )
    differences = describe_differences(tree, steps.abstract_state)
    if differences or ahead:
        was = "of another model or optimizer" if differences else "from before the last change"
        where = f" Its arrays differ in\n{differences}\n" if differences else " "
        raise UserError(
            f"checkpoint {folder} is {was}; nothing was changed.{where}"
            "Use the options that it was written with, or start a new run with another --out; or "
            "keep the parameters under another optimizer: --reset-optimizer begins a new optimizer "
            "state, --convert-optimizer keeps what it has in common with the old."
        )
    state, data_state = checkpoints.read(step, steps.abstract_state)
    return Start(step, state, data_state, former_configs(saved))


def _is_done(config: PretrainConfig, saved: dict[str, Any]) -> bool:
    """Whether this change was made when the run was resumed before.

    The same command may be given again and again, by a cluster's queue for example.
    """
    same = not differing_options(saved, to_json(config, saved["data_checksum"]))
    return same and bool(former_configs(saved))


def _changed(
    config: PretrainConfig,
    steps: CompiledSteps,
    checkpoints: Checkpoints,
    step: int,
    tree: Any,
    saved: dict[str, Any],
    say: Callable[[str], None],
) -> Start:
    """The start at one checkpoint under another optimizer."""
    expected = steps.abstract_state
    differences = describe_differences(tree["params"], expected.params)
    if differences:
        raise UserError(
            f"checkpoint {checkpoints.folder / str(step)} is of another model; nothing was changed."
            f" Its parameters differ in\n{differences}\n"
            "Use the options that it was written with, or start a new run with another --out."
        )
    reset = config.change.reset_optimizer
    before = with_change(saved, step, reset=reset)
    new = by_path(expected.optimizer_state)
    kept = {}
    if not reset:
        now = to_json(config, "")
        kept = kept_arrays(
            by_path(tree["optimizer_state"]),
            expected.optimizer_state,
            same_method=all(before[-1].get(key) == now[key] for key in _METHOD),
        )
    wanted = {f"params/{path}": array for path, array in by_path(expected.params).items()}
    wanted |= {f"optimizer_state/{place}": new[path] for path, place in kept.items()}
    wanted["step"] = expected.step
    wanted_tree = map_by_path(lambda path, _: wanted.get(path, ocp.PLACEHOLDER), tree)
    read, data_state = checkpoints.read(step, wanted_tree)
    arrays = by_path(read)
    params = map_by_path(lambda path, _: arrays[f"params/{path}"], expected.params)
    state = steps.init_from(config, params)
    optimizer_state = map_by_path(
        lambda path, own: arrays[f"optimizer_state/{kept[path]}"] if path in kept else own,
        state.optimizer_state,
    )
    begun = new.keys() - kept.keys()
    say(
        f"{'new' if reset else 'converted'} optimizer state after step {step}: {len(kept)} arrays "
        f"({_size(new[path] for path in kept)}) kept, {len(begun)} "
        f"({_size(new[path] for path in begun)}) begun anew"
    )
    notes = {"optimizer_arrays_kept": len(kept), "optimizer_arrays_new": len(begun)}
    state = TrainState(arrays["step"], state.params, optimizer_state)
    return Start(step, state, data_state, before, notes)


def _size(arrays: Iterable[Any]) -> str:
    return readable_bytes(sum(x.size * x.dtype.itemsize for x in arrays))

"""Where a run begins, and where a resumed one goes on from: its newest readable checkpoint."""

import dataclasses
from collections.abc import Callable
from typing import Any

from etils import epath

from training.checkpoints.init_from import init_from
from training.checkpoints.manager import Checkpoints
from training.checkpoints.origin import find_origin
from training.checkpoints.reader import UnreadableCheckpointError
from training.checkpoints.trees import tree_differences
from training.config.pretraining import InitOptions
from training.config.record import recorded_init
from training.config.resolved import Variant
from training.errors import UserError
from training.steps.compiled import CompiledSteps
from training.steps.update import TrainState


@dataclasses.dataclass(frozen=True)
class Start:
    """The state that a run goes on from."""

    init: InitOptions  # what the run began with: `init_from` is the one checkpoint
    step: int  # steps done
    state: TrainState
    data_state: dict[str, Any] | None  # of the data iterator; None at the beginning


def begin(
    init: InitOptions, variant: Variant, steps: CompiledSteps, say: Callable[[str], None]
) -> Start:
    """The beginning of a run: random weights, or what `--init-from` says."""
    if init.init_from is None:
        return Start(init, 0, steps.init(variant), None)
    origin = find_origin(init.init_from)
    state = init_from(origin, variant, steps, say, share=init.init_state == "shared")
    return Start(InitOptions(origin.folder, init.init_state), 0, state, None)


def find_start(
    folder: epath.Path,
    variant: Variant,
    steps: CompiledSteps,
    checkpoints: Checkpoints,
    say: Callable[[str], None],
) -> Start:
    """Where a run goes on from: its newest readable checkpoint; without any, its beginning.

    Checkpoints that cannot be read are moved aside, and that is said. All processes take the same.
    If there are some and none can be read, or one is of another model or optimizer, that is a
    `UserError`, and nothing was changed.
    """
    init = recorded_init(folder)
    for step in checkpoints.unfinished:
        say(f"removed an unfinished save of step {step}, which was interrupted")
    unreadable: dict[int, str] = {}
    for step in checkpoints.steps():
        try:
            start = Start(init, step, *_read(folder, steps, checkpoints, step))
        except UnreadableCheckpointError as error:
            unreadable[step] = error.reason
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
            f"cannot resume {folder}: none of its checkpoints can be read; nothing was changed"
            f"\n{reasons}\nRestore one of these folders of {checkpoints.folder} from a backup, or "
            "start a new run with another --out."
        )
    return begin(init, variant, steps, say)


def _read(
    folder: epath.Path, steps: CompiledSteps, checkpoints: Checkpoints, step: int
) -> tuple[TrainState, dict[str, Any]]:
    """State and position in the data at one checkpoint."""
    differences = tree_differences(checkpoints.read_tree(step), steps.abstract_state)
    if differences:
        raise UserError(
            f"checkpoint {checkpoints.folder / str(step)} is of another model or optimizer; "
            f"nothing was changed. Its arrays differ in\n{differences}\nUse the options that it "
            "was written with, or begin a new run with its parameters: "
            f"--init-from {folder} with another --out."
        )
    return checkpoints.read(step, steps.abstract_state)

"""Where a run begins, and where a resumed one goes on from: its newest readable checkpoint."""

import dataclasses
from collections.abc import Callable
from typing import Any

from training.checkpoints.init_from import init_from
from training.checkpoints.manager import Checkpoints
from training.checkpoints.reader import UnreadableCheckpointError
from training.checkpoints.trees import describe_differences
from training.config.pretraining import PretrainConfig
from training.errors import UserError
from training.runs.folder import origin_options
from training.steps.compiled import CompiledSteps
from training.steps.update import TrainState


@dataclasses.dataclass(frozen=True)
class Start:
    """The state that a run goes on from.

    Attributes:
        config: the run's, whose `init_from` is the checkpoint that it began with.
        step: steps done.
        data_state: of the data iterator; None at the beginning.
    """

    config: PretrainConfig
    step: int
    state: TrainState
    data_state: dict[str, Any] | None


def begin(config: PretrainConfig, steps: CompiledSteps, say: Callable[[str], None]) -> Start:
    """The beginning of a run: random weights, or what `--init-from` says.

    Raises:
        UserError: there is no such checkpoint, or it is damaged or of another model.
    """
    if config.init_from is None:
        return Start(config, 0, steps.init(config), None)
    state, origin = init_from(config, steps, say)
    return Start(dataclasses.replace(config, init_from=origin.folder), 0, state, None)


def find_start(
    config: PretrainConfig,
    steps: CompiledSteps,
    checkpoints: Checkpoints,
    say: Callable[[str], None],
) -> Start:
    """Where a run goes on from: its newest readable checkpoint; without any, its beginning.

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
    config = dataclasses.replace(config, **origin_options(config.out))
    for step in checkpoints.unfinished:
        say(f"removed an unfinished save of step {step}, which was interrupted")
    unreadable: dict[int, str] = {}
    for step in checkpoints.steps():
        try:
            start = _read(config, steps, checkpoints, step)
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
            f"cannot resume {config.out}: none of its checkpoints can be read; nothing was changed"
            f"\n{reasons}\nRestore one of these folders of {checkpoints.folder} from a backup, or "
            "start a new run with another --out."
        )
    return begin(config, steps, say)


def _read(
    config: PretrainConfig, steps: CompiledSteps, checkpoints: Checkpoints, step: int
) -> Start:
    """The start at one checkpoint."""
    differences = describe_differences(checkpoints.read_tree(step), steps.abstract_state)
    if differences:
        raise UserError(
            f"checkpoint {checkpoints.folder / str(step)} is of another model or optimizer; "
            f"nothing was changed. Its arrays differ in\n{differences}\nUse the options that it "
            "was written with, or begin a new run with its parameters: "
            f"--init-from {config.out} with another --out."
        )
    state, data_state = checkpoints.read(step, steps.abstract_state)
    return Start(config, step, state, data_state)

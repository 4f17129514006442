"""A run whose optimizer was changed on the way: the options for it, and the record in config.json.

`config.json` describes the run as it is now. Under "before" it keeps, oldest first, the former
configurations: each with the step until which it was in force and with what then happened to the
optimizer's state.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from training.errors import UserError

BEFORE = "before"
UNTIL_STEP = "until_step"
OPTIMIZER_STATE = "optimizer_state"  # afterwards: "reset" or "converted"


@dataclasses.dataclass(frozen=True)
class OptimizerChange:
    """What --resume may change that is not the same run any more."""

    reset_optimizer: bool = False
    """With --resume: go on with other optimizer options (--optimizer, --rank, --learning-rate and
    the like). Parameters, step and position in the data are kept; the optimizer's state is new."""
    convert_optimizer: bool = False
    """The same, but what the new optimizer's state has in common with the old is kept: the state of
    a transformation all of whose arrays are there, e.g. the moments of embeddings and norms."""

    @property
    def asked(self) -> bool:
        """Whether either option was given."""
        return self.reset_optimizer or self.convert_optimizer

    def check(self, resume: bool) -> None:
        """Raises UserError for options that do not go together."""
        if self.reset_optimizer and self.convert_optimizer:
            raise UserError("--reset-optimizer and --convert-optimizer exclude each other")
        if self.asked and not resume:
            option = "--reset-optimizer" if self.reset_optimizer else "--convert-optimizer"
            raise UserError(f"{option} is for continuing a run: add --resume")


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a run's config.json; empty if there is none.

    Raises:
        UserError: if it is not JSON.
    """
    path = folder / "config.json"
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is damaged ({error}): restore it from a backup, or start a new run with "
            "another --out"
        ) from error


def former_configs(saved: dict[str, Any]) -> list[dict[str, Any]]:
    """The former configurations in a config.json."""
    return saved.get(BEFORE, [])


def change_is_ahead(saved: dict[str, Any], step: int) -> bool:
    """Whether a checkpoint is from before the last change that config.json tells of.

    So it is when a run was stopped between the change and its next checkpoint, or when all later
    checkpoints are unreadable.

    Args:
        saved: content of config.json.
        step: the checkpoint's.
    """
    before = former_configs(saved)
    return bool(before) and step <= before[-1][UNTIL_STEP]


def with_change(saved: dict[str, Any], step: int, *, reset: bool) -> list[dict[str, Any]]:
    """The former configurations once a checkpoint's optimizer state is replaced.

    Args:
        saved: content of config.json. It is the checkpoint's configuration, unless a change was
            made before, and has to be made again from this checkpoint on.
        step: the checkpoint's.
        reset: whether all of the state is new.
    """
    before = list(former_configs(saved))
    former = {key: value for key, value in saved.items() if key != BEFORE}
    while before and step <= before[-1][UNTIL_STEP]:
        former = before.pop()
    happened = {UNTIL_STEP: step, OPTIMIZER_STATE: "reset" if reset else "converted"}
    return [*before, former | happened]

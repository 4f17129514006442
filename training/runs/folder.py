"""A run's folder and its config.json: free for a new run, of the same run for a resumed one."""

import dataclasses
import glob
from typing import Any

from etils import epath

from training.config.finetuning import FinetuneConfig
from training.config.options import CHANGEABLE, options_of
from training.config.record import CONFIG_FILE, as_json, recorded_options, to_json
from training.config.resolved import ResolvedRun
from training.data.changes import changed_values, check_unchanged
from training.data.corpus import Corpus
from training.data.questions_corpus import FinetuneData
from training.distributed import is_first
from training.errors import UserError
from training.files import absolute, write_json, writing_to

# Schedules whose rates do not depend on where the run ends, at first or at all.
EXTENSIBLE = ("wsd", "constant")


# What a run is trained and evaluated on.
RunData = Corpus | FinetuneData


def check_run_folder(run: ResolvedRun, data: RunData) -> None:
    """Checks that a new run's folder is free, or that a resumed one's configuration is the same,
    and its data unless it allows changed ones.

    Writes nothing, so that a run that fails to start leaves nothing behind.
    """
    folder = run.folder
    if glob.has_magic(str(absolute(folder))):
        raise UserError(
            f"--out {folder}: Orbax takes *, ? and [ in a path for patterns, and would not find "
            "its own files again: give a folder without them"
        )
    # A run that is killed as it writes config.json leaves no more than this.
    free = not folder.exists() or (
        folder.is_dir() and {path.name for path in folder.iterdir()} <= {"config.tmp"}
    )
    if run.resumed_folder:
        saved = recorded_options(folder)
        if not saved:
            raise UserError(f"--resume: there is no run in {folder} (no {CONFIG_FILE})")
        current = to_json(run.options, data.checksum)
        # Of other sources, files that came and went would say less than the option does.
        if not run.options.run.allow_changed_data and saved.get("data") == current["data"]:
            check_unchanged(folder, data.checksums)
        _check_same_options(run, saved, current)
    elif not free:
        raise UserError(
            f"{folder} exists already: continue that run with --resume, "
            "or give another folder with --out"
        )


def create_run_folder(folder: epath.Path, record: dict[str, Any]) -> None:
    """Creates a run's folder, if it is a new one, with its config.json; the first process does."""
    if not is_first():
        return
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG_FILE, record)


def _check_same_options(run: ResolvedRun, saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Refuses another configuration than the saved one.

    An option that is not saved was not known then, and had its default.
    """
    known = list(options_of(run.options))
    ignored = {option.name for option in known if option.metadata == CHANGEABLE}
    if saved.get("schedule") == current["schedule"] and current["schedule"] in EXTENSIBLE:
        ignored.add("steps")  # see check_extension
    if run.options.run.allow_changed_data:
        ignored.add("data_checksum")
    if _is_origin(run.init.init_from, saved.get("init_from")):
        ignored |= {"init_from", "init_state"}  # they are done
    before = {
        option.name: as_json(option.default)
        for option in known
        if option.default is not dataclasses.MISSING
    } | saved
    names = sorted((saved.keys() | current.keys()) - ignored)
    lines = changed_values(before, {name: current.get(name) for name in names})
    if lines:
        begin = "--model" if isinstance(run.options, FinetuneConfig) else "--init-from"
        raise UserError(
            f"cannot resume {run.folder}: its configuration differs in\n"
            + "\n".join(lines)
            + "\nUse the former values, or start a new run with another --out; with "
            f"{begin} {run.folder} that begins with the parameters of this one."
        )


def check_extension(run: ResolvedRun, step: int) -> None:
    """Checks that the steps done are those that a run of so many steps would have done.

    The run is resumed, and its config.json is still the former one. Its learning rate must not have
    begun to decay, nor be one that would have.
    """
    schedule, saved = run.steps.schedule, recorded_options(run.folder)
    former = dataclasses.replace(schedule, steps=saved["steps"])
    if former == schedule:
        return
    if step >= schedule.steps:
        raise UserError(
            f"cannot resume {run.folder} with --steps {schedule.steps}: {step} are done already"
        )
    if schedule.schedule != "wsd":
        return
    start = min(former.decay_start, schedule.decay_start)
    if step > start:
        raise UserError(
            f"cannot resume {run.folder} at step {step} with --steps {schedule.steps} after "
            f"--steps {former.steps}: one of them decays the learning rate from step {start} on. "
            f"Move those of {run.folder / 'checkpoints'} that are of later steps elsewhere, to go "
            "on from the newest one before; or begin a new run with this one's parameters: "
            f"--init-from {run.folder} --init-state shared."
        )


def _is_origin(given: epath.PathLike | None, saved: str | None) -> bool:
    """Whether a run began with what `--init-from` gives: not at all, this checkpoint or run."""
    if given is None or saved is None:
        return given is None
    origin, saved_path = absolute(given), epath.Path(saved)
    return origin in (saved_path, saved_path.parent.parent)

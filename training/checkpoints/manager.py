"""Checkpoints with Orbax: written in the background, complete or not there, the newest n kept.

    checkpoints/STEP/state          arrays
                     data           the position in the data
                     fingerprints   of the arrays, by path, and of that position
                     files.json     sizes of the files of the above

A checkpoint that cannot be read, or whose arrays are not what was saved, is an
`UnreadableCheckpointError`; `training.checkpoints.resume` then turns to the one before.
"""

import contextlib
import errno
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from training.checkpoints.files import check_sizes, checksum, read_json, record_sizes
from training.checkpoints.fingerprints import fingerprints
from training.checkpoints.trees import by_path
from training.disk import is_disk_full
from training.errors import TrainingFailedError
from training.runs.distributed import is_first, processes_where

# Beside the checkpoints, in a run's folder: those that could not be read.
UNREADABLE_FOLDER = "unreadable-checkpoints"
_UNFINISHED = ".orbax-checkpoint-tmp"
_LONGEST_REASON = 200
_MOST_STEPS = 256  # of the newest checkpoints, that processes tell each other


class UnreadableCheckpointError(Exception):
    """A checkpoint is damaged or incomplete; the message is one line that says how."""


class Checkpoints:
    """The checkpoints of one run: arrays (parameters, optimizer state, step) and the position in
    the data, each under the step that they were taken after.

    Args:
        folder: where to; created if missing.
        keep: how many of the newest are kept.

    Attributes:
        unfinished: steps whose save was interrupted; what there was of it has been removed.
    """

    def __init__(self, folder: Path, keep: int):
        self.folder = folder.resolve()
        logging.getLogger("absl").addFilter(_not_a_full_disk)
        self.unfinished = sorted(
            int(path.name.removesuffix(_UNFINISHED).partition(".")[0])
            for path in self.folder.glob(f"*{_UNFINISHED}*")
        )
        self._saving: int | None = None  # step of the last save
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.LatestN(keep),
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._record_files),
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "data": ocp.JsonCheckpointHandler(),
                "fingerprints": ocp.JsonCheckpointHandler(),
            },
        )

    def _record_files(self) -> None:
        """Lists the files of a save that is complete but for its last step, the renaming.

        A file that is cut short is then found without reading: Orbax and TensorStore print a page
        from their threads for each array of such a file, whoever catches the error.
        """
        if not is_first():
            return
        for folder in self.folder.glob(f"{self._saving}{_UNFINISHED}*"):
            record_sizes(folder)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, the newest first; the same list in all processes."""
        return sorted(_of_first(self._manager.all_steps()), reverse=True)

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def describe_latest(self) -> str:
        """Path of the newest complete checkpoint for messages, or that there is none."""
        step = self.latest_step()
        return "none was written" if step is None else str(self.folder / str(step))

    def save(self, step: int, state: Any, data_state: dict[str, Any]) -> None:
        """Starts to write a checkpoint; returns once the arrays may be changed.

        Args:
            step: steps done.
            state: pytree of arrays.
            data_state: the data iterator's `get_state()`, JSON-able.

        Raises:
            TrainingFailedError: if the disk is full, now or at the save before.
        """
        with self.full_disk_explained():
            self._check_free_space(state)
            self._manager.wait_until_finished()
            self._saving = step
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=ocp.args.JsonSave(data_state),
                    fingerprints=ocp.args.JsonSave(
                        {"data": checksum(data_state), "state": fingerprints(state)}
                    ),
                ),
            )

    def _check_free_space(self, state: Any) -> None:
        """Refuses before anything is written, rather than leave half a checkpoint behind."""
        needed = sum(array.nbytes for array in jax.tree.leaves(state))
        free = shutil.disk_usage(self.folder).free
        # In all processes or in none: writing is a joint effort.
        if processes_where(free < needed):
            raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, {free:,} are free")

    def wait(self) -> None:
        """Waits until the last save is complete.

        Raises:
            TrainingFailedError: if the disk was full.
        """
        with self.full_disk_explained():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def read_tree(self, step: int) -> Any:
        """What arrays a checkpoint holds: nested dictionaries and lists of shapes and types.

        Raises:
            UnreadableCheckpointError: in all processes, if one of them cannot read it.
        """
        folder = self.folder / str(step)

        def read() -> Any:
            check_sizes(folder)
            return ocp.StandardCheckpointHandler().metadata(folder / "state").tree

        return self._read_jointly(read)

    def read(self, step: int, tree: Any) -> tuple[Any, dict[str, Any]]:
        """Reads arrays of a checkpoint, onto whatever devices they are to be used on now.

        Args:
            step: one that is there.
            tree: like `read_tree` returns, or as the state was saved, of `jax.ShapeDtypeStruct`
                with shardings; `orbax.checkpoint.PLACEHOLDER` for an array that is not wanted.

        Returns:
            (tree of arrays, data iterator state).

        Raises:
            UnreadableCheckpointError: in all processes, if one of them cannot read it, or if an
                array is not what was saved.
        """

        folder = self.folder / str(step)

        def read() -> tuple[Any, Any, Any]:
            data = read_json(folder / "data")
            expected = read_json(folder / "fingerprints")
            if expected["data"] != checksum(data):
                raise ValueError("the position in the data is not what was saved")
            arrays = ocp.PyTreeCheckpointHandler().restore(
                folder / "state",
                args=ocp.args.PyTreeRestore(
                    tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree)
                ),
            )
            return arrays, data, expected["state"]

        arrays, data, expected = self._read_jointly(read)
        present = {path: x for path, x in by_path(arrays).items() if x is not ocp.PLACEHOLDER}
        found = fingerprints(present)
        changed = [path for path in found if expected.get(path) != found[path]]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise UnreadableCheckpointError(f"{changed[0]}{more} is not what was saved")
        return arrays, data

    def _read_jointly(self, read: Callable[[], Any]) -> Any:
        """What `read` returns, if it succeeds in all processes.

        It goes past Orbax's manager and checkpointer, which let processes wait for one that failed.
        """
        result, reason = None, ""
        try:
            result = read()
        except MemoryError:
            raise
        except Exception as error:  # Orbax raises a plain Exception for an array cut short
            if isinstance(error, jax.errors.JaxRuntimeError):  # a device, and not the file
                raise
            reason = _one_line(error)
        failed = processes_where(bool(reason))
        if failed:
            elsewhere = f"process {', '.join(map(str, failed))} cannot read it"
            raise UnreadableCheckpointError(reason or elsewhere)
        return result

    def set_aside(self, step: int) -> Path:
        """Moves an unreadable checkpoint out of the way of the one that will be saved in its place.

        Returns:
            Where to: a folder beside that of the checkpoints.
        """
        target = self.folder.parent / UNREADABLE_FOLDER / str(step)
        number = 1
        while target.exists():
            number += 1
            target = target.with_name(f"{step}-{number}")
        multihost_utils.sync_global_devices(f"set aside {step}")
        if is_first():
            target.parent.mkdir(exist_ok=True)
            (self.folder / str(step)).rename(target)
        multihost_utils.sync_global_devices(f"set {step} aside")
        self._manager.reload()
        return target

    def close(self) -> None:
        """Ends the background threads."""
        self._manager.close()
        logging.getLogger("absl").removeFilter(_not_a_full_disk)

    @contextlib.contextmanager
    def full_disk_explained(self) -> Iterator[None]:
        """Turns a full disk, whoever reports it, into a message for people.

        Raises:
            TrainingFailedError: naming the folder and the last good checkpoint.
        """
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            if not is_disk_full(error):
                raise
            raise TrainingFailedError(
                f"no space left to save {self.folder.parent}{_space_details(error)}; "
                f"last good checkpoint: {self.describe_latest()}. "
                "Free some space and continue with --resume."
            ) from error


def _of_first(numbers: Iterable[int]) -> list[int]:
    """The first process's numbers, in all processes."""
    if jax.process_count() == 1:
        return list(numbers)
    own = np.array(sorted(numbers, reverse=True)[:_MOST_STEPS], np.int64)
    padded = np.pad(own, (0, _MOST_STEPS - len(own)), constant_values=-1)
    # As int32 halves: JAX would cut 64-bit numbers without a word.
    halves = multihost_utils.broadcast_one_to_all(padded.view(np.int32))
    return [int(number) for number in np.asarray(halves).view(np.int64) if number >= 0]


def _one_line(error: Exception) -> str:
    """What an exception says, short enough for a message."""
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    cause = "" if error.__cause__ is None else f" ({error.__cause__})"
    text = " ".join(f"{kind}{error}{cause}".split())
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "..."


def _space_details(error: BaseException) -> str:
    """The amounts, where our own check found them; C++ errors are too long to show."""
    return f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""


def _not_a_full_disk(record: logging.LogRecord) -> bool:
    """Keeps Orbax from logging, once per thread, the error that it then raises."""
    return not (record.exc_info and is_disk_full(record.exc_info[1]))

"""Checkpoints with Orbax: written in the background, complete or not there, some of them kept.

checkpoints/STEP/state          arrays
                 data           the position in the data
                 fingerprints   of the arrays, by path, and of that position; beside them the
                                validation loss, where there was an evaluation
                 files.json     sizes of the files of the above
"""

import contextlib
import dataclasses
import errno
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from training.checkpoints.integrity import fingerprints, record_sizes
from training.checkpoints.reader import CheckpointReader, crc32_of
from training.config.groups import CheckpointOptions
from training.distributed import is_first, processes_where
from training.errors import TrainingFailedError
from training.files import is_disk_full, is_local, move_folder

# Beside the checkpoints, in a run's folder: those that could not be read.
UNREADABLE_FOLDER = "unreadable-checkpoints"
_UNFINISHED = ".orbax-checkpoint-tmp"


class Checkpoints(CheckpointReader):
    """The checkpoints of one run: arrays (parameters, optimizer state, step) and the position in
    the data, each under the step that they were taken after. Their folder is made if it is
    missing."""

    def __init__(self, folder: epath.PathLike, options: CheckpointOptions):
        super().__init__(folder)
        logging.getLogger("absl").addFilter(_not_a_full_disk)
        # Steps whose save was interrupted; what there was of it has been removed.
        self.unfinished = sorted(
            int(path.name.removesuffix(_UNFINISHED).partition(".")[0])
            for path in self.folder.glob(f"*{_UNFINISHED}*")
        )
        self._saving: int | None = None  # step of the last save
        self._losses = {
            step: loss
            for step in self.own_steps()
            if (loss := self.read_val_loss(step)) is not None
        }
        kept: list[policies.PreservationPolicy] = [policies.LatestN(options.keep_checkpoints)]
        if options.keep_best:
            kept.append(_Best(options.keep_best, self._losses))
        if options.keep_every:
            kept.append(policies.EveryNSteps(options.keep_every))
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(kept),
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
        """Lists the files of a save that is complete but for its last step, the renaming."""
        if is_first():
            for folder in self.folder.glob(f"{self._saving}*"):
                if folder.name.partition(".")[0] == str(self._saving):
                    record_sizes(folder)

    def describe_latest(self) -> str:
        """Path of the newest complete checkpoint for messages, or that there is none."""
        step = max(self.own_steps(), default=None)
        return "none was written" if step is None else str(self.folder / str(step))

    def save(
        self, step: int, state: Any, data_state: dict[str, Any], val_loss: float | None = None
    ) -> None:
        """Starts to write a checkpoint; returns once the arrays may be changed. A disk that is
        full, now or at the save before, is a `TrainingFailedError`."""
        with self.full_disk_explained():
            self._check_free_space(state)
            self._manager.wait_until_finished()
            self._saving = step
            if val_loss is not None:
                self._losses[step] = val_loss
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=ocp.args.JsonSave(data_state),
                    fingerprints=ocp.args.JsonSave(
                        {
                            "data": crc32_of(data_state),
                            "state": fingerprints(state),
                            "val_loss": val_loss,
                        }
                    ),
                ),
            )

    def _check_free_space(self, state: Any) -> None:
        """Refuses before anything is written, rather than leave half a checkpoint behind."""
        if not is_local(self.folder):
            return
        needed = sum(array.nbytes for array in jax.tree.leaves(state))
        free = shutil.disk_usage(self.folder).free
        # In all processes or in none: writing is a joint effort.
        if processes_where(free < needed):
            raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, {free:,} are free")

    def wait(self) -> None:
        """Waits until the last save is complete; raises as that does."""
        with self.full_disk_explained():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def set_aside(self, step: int) -> epath.Path:
        """Moves an unreadable checkpoint out of the way of the one that will be saved in its place,
        into a folder beside that of the checkpoints, which it returns."""
        target = self.folder.parent / UNREADABLE_FOLDER / str(step)
        number = 1
        while target.exists():
            number += 1
            target = target.with_name(f"{step}-{number}")
        multihost_utils.sync_global_devices(f"set aside {step}")
        if is_first():
            target.parent.mkdir(exist_ok=True)
            move_folder(self.folder / str(step), target)
        multihost_utils.sync_global_devices(f"set {step} aside")
        self._manager.reload()
        return target

    def close(self) -> None:
        """Ends the background threads."""
        self._manager.close()
        logging.getLogger("absl").removeFilter(_not_a_full_disk)

    @contextlib.contextmanager
    def full_disk_explained(self) -> Iterator[None]:
        """Turns a full disk, whoever reports it, into a `TrainingFailedError` that names the folder
        and the last good checkpoint."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            if not is_disk_full(error):
                raise
            # The amounts, where our own check found them; C++ errors are too long to show.
            strerror = error.strerror if isinstance(error, OSError) else None
            details = f" ({strerror})" if strerror else ""
            raise TrainingFailedError(
                f"no space left to save {self.folder.parent}{details}; "
                f"last good checkpoint: {self.describe_latest()}. "
                "Free some space and continue with --resume."
            ) from error


@dataclasses.dataclass
class _Best(policies.PreservationPolicy):
    """Keeps those with the lowest validation loss. Orbax's `BestN` reads its metrics from files
    when a run is resumed, and a damaged one of a single checkpoint would then end the run."""

    count: int
    losses: Mapping[int, float]  # by step

    def should_preserve(
        self,
        checkpoints: Sequence[policies.PolicyCheckpointInfo],
        *,
        context: policies.PreservationContext,
    ) -> Sequence[bool]:
        """Whether each is kept."""
        del context
        known = [info.step for info in checkpoints if info.step in self.losses]
        best = sorted(known, key=self.losses.__getitem__)[: self.count]
        return [info.step in best for info in checkpoints]


def _not_a_full_disk(record: logging.LogRecord) -> bool:
    """Keeps Orbax from logging, once per thread, the error that it then raises."""
    return not (record.exc_info and is_disk_full(record.exc_info[1]))

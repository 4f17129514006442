"""Checkpoints with Orbax: written in the background, complete or not there, the newest n kept."""

import contextlib
import errno
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from training.distributed import processes_where
from training.errors import TrainingFailedError, UserError

_DISK_FULL_TEXTS = ("no space left on device", "disk quota exceeded", "file too large")
_MOST_DIFFERENCES = 8  # named in a message
_DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Checkpoints:
    """The checkpoints of one run: arrays (parameters, optimizer state, step) and the position in
    the data, each under the step that they were taken after.

    Args:
        folder: where to; created if missing.
        keep: how many of the newest are kept.
    """

    def __init__(self, folder: Path, keep: int):
        self.folder = folder.resolve()
        logging.getLogger("absl").addFilter(_not_a_full_disk)
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.LatestN(keep),
                cleanup_tmp_directories=True,
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "data": ocp.JsonCheckpointHandler(),
            },
        )

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
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data_state)
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

    def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """Reads a checkpoint, onto whatever devices it is to be used on now.

        Args:
            step: one that is there.
            abstract_state: pytree of `jax.ShapeDtypeStruct` with shardings.

        Returns:
            (state, data iterator state).

        Raises:
            UserError: if the checkpoint's arrays are not those of `abstract_state`, with the paths.
        """
        saved = self._manager.metadata(step).item_metadata["state"].tree
        differences = describe_differences(saved, abstract_state)
        if differences:
            raise UserError(
                f"checkpoint {self.folder / str(step)} is of another model or optimizer; "
                f"nothing was changed. Its arrays differ in\n{differences}\n"
                "Use the options that it was written with, or start a new run with another --out."
            )
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract_state), data=ocp.args.JsonRestore()
            ),
        )
        return restored.state, restored.data

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


def describe_differences(saved: Any, expected: Any) -> str:
    """A line for each array that only one of two trees has or that differs in shape or type.

    Args:
        saved: pytree of arrays, or anything with a shape and a dtype.
        expected: the same.

    Returns:
        The first lines, and how many more there are; empty if the trees agree.
    """
    saved, expected = _arrays_by_path(saved), _arrays_by_path(expected)
    lines = []
    for path in sorted(saved.keys() | expected.keys()):
        if path not in expected:
            lines.append(f"  {path}: {saved[path]} in the checkpoint, not expected")
        elif path not in saved:
            lines.append(f"  {path}: missing in the checkpoint, {expected[path]} expected")
        elif saved[path] != expected[path]:
            lines.append(f"  {path}: {saved[path]} in the checkpoint, {expected[path]} expected")
    if len(lines) > _MOST_DIFFERENCES:
        lines[_MOST_DIFFERENCES:] = [f"  and {len(lines) - _MOST_DIFFERENCES} more"]
    return "\n".join(lines)


def _arrays_by_path(tree: Any) -> dict[str, str]:
    """Path -> type and shape, as "float32(4, 8)". Named tuples and dictionaries look the same."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{leaf.shape}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an exception, or one that it was raised from, means a full disk or quota.

    Orbax reports what its C++ writer says as text within a ValueError.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_FULL_ERRORS:
            return True
        if any(text in str(error).lower() for text in _DISK_FULL_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _space_details(error: BaseException) -> str:
    """The amounts, where our own check found them; C++ errors are too long to show."""
    return f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""


def _not_a_full_disk(record: logging.LogRecord) -> bool:
    """Keeps Orbax from logging, once per thread, the error that it then raises."""
    return not (record.exc_info and is_disk_full(record.exc_info[1]))

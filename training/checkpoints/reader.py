"""Reading checkpoints: what they hold, arrays or some of them, each checked to be what was saved.

A checkpoint that cannot be read, or whose arrays are not what was saved, is an
`UnreadableCheckpointError`. Nothing of the folder is changed: its run may be under way.
"""

import contextlib
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from training.checkpoints.integrity import check_sizes, fingerprints
from training.checkpoints.trees import by_path, map_by_path
from training.distributed import processes_where
from training.errors import UserError
from training.files import absolute

_LONGEST_REASON = 200
_MOST_STEPS = 256  # of the newest checkpoints, that processes tell each other


class UnreadableCheckpointError(UserError):
    """A checkpoint is damaged or incomplete."""

    def __init__(self, folder: epath.Path, reason: str):
        super().__init__(
            f"checkpoint {folder} cannot be read: {reason}. Restore it from a backup, or move the "
            "folder away to use the checkpoint before it"
        )
        self.reason = reason  # one line


class CheckpointReader:
    """The checkpoints of one run, in RUN/checkpoints, to read.

    Every process calls each method. If one of them cannot read a checkpoint, all raise
    `UnreadableCheckpointError`.
    """

    def __init__(self, folder: epath.PathLike):
        self.folder = absolute(folder)

    def own_steps(self) -> list[int]:
        """Steps of the complete checkpoints, in any order, as this process sees them."""
        if not self.folder.is_dir():
            return []
        folders = [path for path in self.folder.iterdir() if path.name.isdecimal()]
        return [int(path.name) for path in folders if ocp.utils.is_checkpoint_finalized(path)]

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, the newest first; the same list in all processes."""
        return sorted(_of_first(self.own_steps()), reverse=True)

    def read_val_loss(self, step: int) -> float | None:
        """The validation loss of a checkpoint; None if there is none, or it cannot be read."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return _read_json(self.folder / str(step) / "fingerprints").get("val_loss")
        return None

    def read_tree(self, step: int) -> Any:
        """What arrays a checkpoint holds: nested dictionaries and lists of shapes and types."""
        folder = self.folder / str(step)

        def read() -> Any:
            check_sizes(folder)
            return ocp.StandardCheckpointHandler().metadata(folder / "state").tree

        return _read_jointly(folder, read)

    def read(self, step: int, tree: Any) -> tuple[Any, dict[str, Any]]:
        """The arrays of a checkpoint, on whatever devices they are to be used on now, each checked
        to be what was saved, and the state of the data iterator.

        Args:
            tree: like `read_tree` returns, or as the state was saved, of `jax.ShapeDtypeStruct`
                with shardings; `orbax.checkpoint.PLACEHOLDER` for an array that is not wanted.
        """
        folder = self.folder / str(step)

        def read() -> tuple[Any, Any, Any]:
            data = _read_json(folder / "data")
            expected = _read_json(folder / "fingerprints")
            if expected["data"] != crc32_of(data):
                raise ValueError("the position in the data is not what was saved")
            arrays = ocp.PyTreeCheckpointHandler().restore(
                folder / "state",
                args=ocp.args.PyTreeRestore(
                    tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree)
                ),
            )
            return arrays, data, expected["state"]

        arrays, data, expected = _read_jointly(folder, read)
        found = fingerprints(_present(arrays))
        changed = [path for path in found if expected.get(path) != found[path]]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise UnreadableCheckpointError(folder, f"{changed[0]}{more} is not what was saved")
        return arrays, data

    def read_some(self, step: int, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
        """Path -> array, for paths with their shapes, types and shardings; no other one is read."""
        tree = map_by_path(lambda path, _: wanted.get(path, ocp.PLACEHOLDER), self.read_tree(step))
        return _present(self.read(step, tree)[0])


def crc32_of(content: Any) -> int:
    """CRC-32 of anything that JSON can hold."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _present(arrays: Any) -> dict[str, Any]:
    return {path: x for path, x in by_path(arrays).items() if x is not ocp.PLACEHOLDER}


def _read_json(folder: epath.Path) -> Any:
    """The content of an item that Orbax wrote as JSON."""
    return ocp.JsonCheckpointHandler().restore(folder, args=ocp.args.JsonRestore())


def _read_jointly(folder: epath.Path, read: Callable[[], Any]) -> Any:
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
        raise UnreadableCheckpointError(folder, reason or elsewhere)
    return result


def _of_first(numbers: Iterable[int]) -> list[int]:
    """The first process's numbers, in all processes."""
    if jax.process_count() == 1:
        return list(numbers)
    own = np.array(sorted(numbers, reverse=True)[:_MOST_STEPS], np.int32)  # as a state's step
    padded = np.pad(own, (0, _MOST_STEPS - len(own)), constant_values=-1)
    found = np.asarray(multihost_utils.broadcast_one_to_all(padded))
    return found[found >= 0].tolist()


def _one_line(error: Exception) -> str:
    """What an exception says, short enough for a message."""
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    cause = "" if error.__cause__ is None else f" ({error.__cause__})"
    text = " ".join(f"{kind}{error}{cause}".split())
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "..."

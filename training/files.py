"""Files and folders, on this machine or in a bucket as gs://BUCKET/RUN (etils.epath); JSON as
everybody reads it, complete or not there, and no NaN or Infinity; full disks."""

import contextlib
import errno
import json
import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from etils import epath

from training.errors import UserError

_DISK_FULL_TEXTS = ("no space left on device", "disk quota exceeded", "file too large")
_DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cache_folder(name: str) -> Path:
    """Where something is kept for other runs: below $XDG_CACHE_HOME, by default ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "lowrank_optax" / name


def is_local(path: epath.PathLike) -> bool:
    """Whether a path is of this machine's file system, where files can be appended to and renamed.

    >>> is_local("runs/small"), is_local("gs://bucket/small")
    (True, False)
    """
    return "://" not in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """A path that another working directory leaves as it is; `resolve` would take that of a bucket
    for one below this directory.

    >>> absolute("gs://bucket/small")
    PosixGPath('gs://bucket/small')
    """
    path = epath.Path(path)
    return path.resolve() if is_local(path) else path


def walk(
    folder: epath.Path, leave_out: Collection[str] = ()
) -> Iterator[tuple[epath.Path, list[epath.Path]]]:
    """Yields a folder and those below it, each with the files in it, in order; but for those whose
    names are left out.

    `epath.Path.walk` gives the folders of a bucket without gs://. Linked folders are not looked
    into, as they may lead back.
    """
    inside = sorted(folder.iterdir())
    folders = [path for path in inside if path.is_dir()]
    yield folder, [path for path in inside if path not in folders]
    for path in folders:
        if path.name not in leave_out and not os.path.islink(path):
            yield from walk(path, leave_out)


def move_folder(folder: epath.Path, target: epath.Path) -> None:
    """Gives a folder another name, at once; one in a bucket, which has none, file by file."""
    if is_local(target):
        folder.rename(target)
        return
    for _, files in walk(folder):
        for path in files:
            path.copy(target / path.relative_to(folder))
    folder.rmtree()


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


@contextlib.contextmanager
def writing_to(folder: epath.PathLike) -> Iterator[None]:
    """A `UserError` if this file or folder, all that is written to within, cannot be."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error


def to_text(content: Any, *, indent: int | None = None) -> str:
    """The JSON of numbers, texts, lists and dictionaries.

    A number that is not finite becomes null: JSON has no word for it, and `json` would write one
    that other readers refuse.

    >>> to_text({"loss": float("nan"), "step": 3})
    '{"loss": null, "step": 3}'
    """
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path: epath.PathLike, content: Any) -> None:
    """Writes a file of JSON, complete or not at all."""
    write_text(path, to_text(content, indent=1) + "\n")


def write_text(path: epath.PathLike, text: str) -> None:
    """Writes a file that is there, complete and on the disk, when this returns, or not at all."""
    path = epath.Path(path)
    if not is_local(path):  # an object of a bucket appears when it is complete
        path.write_text(text)
        return
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: epath.PathLike) -> dict[str, Any]:
    """The object in a file of JSON of a run's folder; a `UserError` if there is none in it."""
    try:
        content = json.loads(epath.Path(path).read_text())
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}): restore it from a backup, or start a new run with "
            "another --out"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content

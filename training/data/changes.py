"""Files of a run's data that have changed since it was started."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.errors import DataError
from training.files import read_json

# In a run's folder: the checksum of every file that its tokens came from.
DATA_FILE = "data.json"
_MAX_FILES_SHOWN = 5


def check_unchanged(
    folder: Path,
    checksums: Mapping[str, str],
    remedy: str = "go on with the data as they are by --allow-changed-data",
) -> None:
    """Checks that the files of a run's data are those that it was started with, by its data.json,
    if it has one; a `DataError` names those that vanished, changed or are new."""
    path = folder / DATA_FILE
    if not path.exists():
        return
    differences = describe_differences(read_json(path), checksums)
    if differences:
        raise DataError(
            f"cannot resume {folder}: its data are not what they were:\n{differences}\n"
            f"Restore the files, or {remedy}."
        )


def changed_values(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lines that name the values that are others now."""
    return [
        f"  {name}: {before.get(name)!r} before, {value!r} now"
        for name, value in now.items()
        if before.get(name) != value
    ]


def describe_differences(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Lines that name the first files that vanished, changed or are new; "" for none."""
    differences = [f"  {name} has vanished" for name in before if name not in now]
    differences += [
        f"  {name} has changed" if name in before else f"  {name} is new"
        for name, checksum in now.items()
        if before.get(name) != checksum
    ]
    more = len(differences) - _MAX_FILES_SHOWN
    shown = differences[:_MAX_FILES_SHOWN] + ([f"  and {more} more"] if more > 0 else [])
    return "\n".join(shown)

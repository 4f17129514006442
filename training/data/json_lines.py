"""JSON-lines files read line by line, for errors that say which line is wrong, and what to do."""

import gzip
import itertools
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from training.errors import DataError

READ_ERRORS = (OSError, EOFError, zlib.error)
_GZIP_SUFFIX = ".gz"
_MAX_FIELDS_SHOWN = 8


def read_json_objects(path: Path, expected: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) of every line that is not blank.

    Args:
        path: a JSON-lines file, compressed if its name ends in ".gz".
        expected: what a line should look like, for messages.

    Raises:
        DataError: the file cannot be read, or a line is not UTF-8 or not a JSON object.
    """
    number, offset = 0, 0
    try:
        with open_file(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _json_object(path, number, offset, line, expected)
                offset += len(line)
    except READ_ERRORS as error:
        raise read_error(path, error, line=number + 1) from error


def _json_object(
    path: Path, number: int, offset: int, line: bytes, expected: str
) -> dict[str, Any]:
    """Returns the object of the line that starts at byte `offset` of its file."""
    where = f"{path}, line {number}"
    try:
        record = json.loads(line.rstrip().decode("utf-8").removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        raise utf8_error(path, number, offset + error.start, line[error.start]) from error
    except json.JSONDecodeError as error:
        raise _json_error(where, f"{error.msg}, column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        # Valid JSON beyond Python's limits: a number of 5000 digits, 100 000 nested lists.
        raise _json_error(where, str(error)) from error
    if not isinstance(record, dict):
        raise DataError(
            f"{where}: expected a JSON object such as {expected}, "
            f"got a {type(record).__name__}. Repair or remove the line."
        )
    return record


def string_field(where: str, record: dict[str, Any], name: str) -> str:
    """Returns a field of a line's object.

    Raises:
        DataError: it is missing or not a string; the message begins with `where`.
    """
    if not isinstance(record.get(name), str):
        found = ", ".join(map(repr, itertools.islice(record, _MAX_FIELDS_SHOWN))) or "none"
        problem = "is not a string" if name in record else f"is missing (its fields: {found})"
        raise DataError(
            f'{where}: the field "{name}" {problem}. Every line needs its {name} in the field '
            f'"{name}".'
        )
    try:
        record[name].encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f'{where}: the field "{name}" has half of a surrogate pair at character {error.start}, '
            "which is not text. Repair or remove the line."
        ) from error
    return record[name]


def open_file(path: Path) -> BinaryIO | gzip.GzipFile:
    """Opens a file for reading, decompressed if its name ends in ".gz"."""
    if path.name.lower().endswith(_GZIP_SUFFIX):
        return gzip.open(path, "rb")
    return path.open("rb")


def read_error(path: Path, error: Exception, line: int | None = None) -> DataError:
    """Returns the error for people for an error of the operating system or of gzip."""
    where = f"{path}, line {line}" if line else f"{path}"
    if isinstance(error, EOFError):
        return DataError(
            f"{where}: the .gz file is truncated: its compressed data end too early. "
            "Download or copy it again."
        )
    if isinstance(error, gzip.BadGzipFile | zlib.error):
        return DataError(
            f"{where}: not a valid .gz file ({error}). Download it again, or rename it if it is "
            "not compressed."
        )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return DataError(f"{path}: cannot be read: {reason}. Check that it exists and its permissions.")


def utf8_error(path: Path, line: int, position: int, value: int) -> DataError:
    """Returns the error for people for a byte that is not UTF-8."""
    return DataError(
        f"{path}, line {line}: not UTF-8: byte 0x{value:02x} (byte {position} of the text). "
        "Convert the file to UTF-8, or leave it out."
    )


def _json_error(where: str, reason: str) -> DataError:
    return DataError(
        f"{where}: not valid JSON ({reason}). JSON-lines has one complete JSON object a line; "
        "repair or remove the line."
    )

"""Finding and reading text files, with errors that say which file and line, and what to do."""

import glob
import gzip
import itertools
import json
import os
import stat
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

_JSON_LINES_SUFFIXES = (".jsonl", ".jsonl.gz", ".json.gz")
_GZIP_SUFFIX = ".gz"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WILDCARDS = "*?["
# As git does: text has no NUL bytes, and binary formats have one early.
_BINARY_PROBE_BYTES = 8192
_MAX_FIELDS_SHOWN = 8
# `encodings` is left out for its generated tables: near copies of each other that would make
# the validation loss of a split by file look better than it is.
_STDLIB_EXCLUDED = frozenset({"__pycache__", "encodings", "site-packages", "dist-packages"})
_READ_ERRORS = (OSError, EOFError, zlib.error)

# (name relative to the corpus, path), ordered by name.
NamedPaths = list[tuple[str, Path]]


class DataError(ValueError):
    """Data that cannot be used; the message names the file, the line and the remedy."""


class Files(NamedTuple):
    """Files to read.

    Attributes:
        paths: their names and paths.
        from_folder: found by walking a folder, not named by the user one by one or by a glob.
    """

    paths: NamedPaths
    from_folder: bool


def find_stdlib_files() -> NamedPaths:
    """Returns the source files of the running Python's standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = _walk(root, _STDLIB_EXCLUDED)
    # _sysconfigdata* is generated for the machine that this Python was built on.
    paths = [
        (name, path)
        for name, path in paths
        if path.suffix == ".py" and not path.name.startswith("_sysconfigdata")
    ]
    if not paths:
        raise DataError(
            f"stdlib: no .py files in {root}: this Python comes without the source of its standard "
            "library. Give --data the path of a text file or folder."
        )
    return paths


def find_files(data: str) -> Files:
    """Returns the files of a path or glob.

    Args:
        data: the path of a file or folder ("~" is the home folder), or a glob.

    Raises:
        DataError: nothing is there, or it cannot be read.
    """
    path = Path(data).expanduser()
    if any(wildcard in data for wildcard in _WILDCARDS) and not os.path.lexists(path):
        return Files(_expand_glob(path, data), from_folder=False)
    try:
        mode = path.stat().st_mode if data else 0
    except (FileNotFoundError, NotADirectoryError):
        mode = 0
    except OSError as error:
        raise read_error(path, error) from error
    if not mode:
        raise DataError(
            f"{data!r}: no such file or folder. Give the path of a text, JSON-lines or Parquet "
            'file, a folder, a glob such as "texts/*.txt", a data set as "hf:NAME", or "stdlib".'
        )
    if stat.S_ISDIR(mode):
        return Files(_walk(path), from_folder=True)
    if not stat.S_ISREG(mode):
        raise DataError(f"{data}: neither a file nor a folder. Give a regular file.")
    return Files([(path.name, path)], from_folder=False)


def is_json_lines(path: Path) -> bool:
    """Returns whether a file is read as JSON-lines, by its name."""
    return path.name.lower().endswith(_JSON_LINES_SUFFIXES)


def is_binary(path: Path) -> bool:
    """Returns whether a file holds a NUL byte near its start."""
    try:
        with _open(path) as file:
            return b"\0" in file.read(_BINARY_PROBE_BYTES)
    except _READ_ERRORS as error:
        raise read_error(path, error) from error


def read_text(path: Path) -> bytes:
    """Returns the UTF-8 text of a file, without a byte order mark.

    Args:
        path: a text file, compressed if its name ends in ".gz".

    Raises:
        DataError: the file cannot be read, is binary, or is not UTF-8.
    """
    try:
        with _open(path) as file:
            data = file.read()
    except _READ_ERRORS as error:
        raise read_error(path, error) from error
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _utf8_error(path, line, error.start, data[error.start]) from error
    position = data.find(b"\0")
    if position >= 0:
        line = data.count(b"\n", 0, position) + 1
        raise DataError(
            f"{path}, line {line}: NUL byte (byte {position} of the file): it is binary or "
            "UTF-16. Leave it out, or convert it to UTF-8."
        )
    return data.removeprefix(_BYTE_ORDER_MARK)


def read_json_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields (line number from 1, UTF-8 `text` field) of every line that is not blank.

    Raises:
        DataError: the file cannot be read, or a line is not UTF-8, not a JSON object, or has no
            string in its `text` field.
    """
    for number, record in read_json_objects(path, '{"text": "..."}'):
        yield number, string_field(f"{path}, line {number}", record, "text").encode("utf-8")


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
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _json_object(path, number, offset, line, expected)
                offset += len(line)
    except _READ_ERRORS as error:
        raise read_error(path, error, line=number + 1) from error


def _json_object(
    path: Path, number: int, offset: int, line: bytes, expected: str
) -> dict[str, Any]:
    """Returns the object of the line that starts at byte `offset` of its file."""
    where = f"{path}, line {number}"
    try:
        record = json.loads(line.rstrip().decode("utf-8").removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        raise _utf8_error(path, number, offset + error.start, line[error.start]) from error
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


def _open(path: Path) -> BinaryIO | gzip.GzipFile:
    if path.name.lower().endswith(_GZIP_SUFFIX):
        return gzip.open(path, "rb")
    return path.open("rb")


def _walk(root: Path, excluded: frozenset[str] = frozenset({"__pycache__"})) -> NamedPaths:
    """Returns the files below a folder, hidden ones and excluded folders left out."""

    def refuse(error: OSError) -> None:
        raise read_error(Path(error.filename), error) from error

    paths = []
    for folder, subfolders, names in os.walk(root, onerror=refuse):
        subfolders[:] = [name for name in subfolders if name[0] != "." and name not in excluded]
        paths += [Path(folder, name) for name in names if name[0] != "."]
    return _named(root, paths)


def _expand_glob(pattern: Path, data: str) -> NamedPaths:
    """Returns the files that a glob matches, named from its first part with a wildcard on."""
    paths = [Path(match) for match in glob.glob(str(pattern), recursive=True)]
    is_plain = [not any(wildcard in part for wildcard in _WILDCARDS) for part in pattern.parts]
    named = _named(Path(*pattern.parts[: is_plain.index(False)]), paths)
    if not named:
        found = f"matches {len(paths)} folders but no files" if paths else "matches no files"
        raise DataError(
            f'{data!r}: the glob {found}. Check the folder and the pattern; "**" matches '
            "subfolders."
        )
    return named


def _named(root: Path, paths: list[Path]) -> NamedPaths:
    """Returns the regular files among `paths`, named relative to `root` and ordered by name."""
    return sorted((path.relative_to(root).as_posix(), path) for path in paths if path.is_file())


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


def _utf8_error(path: Path, line: int, position: int, value: int) -> DataError:
    return DataError(
        f"{path}, line {line}: not UTF-8: byte 0x{value:02x} (byte {position} of the text). "
        "Convert the file to UTF-8, or leave it out."
    )


def _json_error(where: str, reason: str) -> DataError:
    return DataError(
        f"{where}: not valid JSON ({reason}). JSON-lines has one complete JSON object a line; "
        "repair or remove the line."
    )

"""Finding what `--data` names: a file, a folder, a glob, or Python's own source."""

import glob
import os
import stat
import sysconfig
from pathlib import Path

from training.data.json_lines import READ_ERRORS, open_file, read_error
from training.errors import DataError

STDLIB = "stdlib"
JSON_LINES = (".jsonl", ".jsonl.gz", ".json.gz")
PARQUET = (".parquet",)
_WILDCARDS = "*?["
# As git does: text has no NUL bytes, and binary formats have one early.
_BINARY_PROBE_BYTES = 8192
# `encodings` is left out for its generated tables: near copies of each other that would make
# the validation loss of a split by file look better than it is.
_STDLIB_EXCLUDED = frozenset({"__pycache__", "encodings", "site-packages", "dist-packages"})

# (name relative to the corpus, path), ordered by name.
NamedPaths = list[tuple[str, Path]]


def find_files(data: str) -> tuple[NamedPaths, int]:
    """Returns the files of a corpus, and how many binary ones of a folder were left out.

    Names are relative to the folder, or to the part of a glob before its first wildcard, so that
    the same files in another place are the same corpus.

    Args:
        data: "stdlib" for the Python source of the running interpreter's standard library, the
            path of a file or folder ("~" is the home folder), or a glob.

    Raises:
        DataError: nothing is there, or it cannot be read.
    """
    if data == STDLIB:
        return _find_stdlib(), 0
    path = Path(data).expanduser()
    if any(wildcard in data for wildcard in _WILDCARDS) and not os.path.lexists(path):
        return _expand_glob(path, data), 0
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
        found = _walk(path)
        texts = [(name, path) for name, path in found if not _is_binary(path)]
        return texts, len(found) - len(texts)
    if not stat.S_ISREG(mode):
        raise DataError(f"{data}: neither a file nor a folder. Give a regular file.")
    return [(path.name, path)], 0


def has_suffix(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Returns whether a file is of a kind, by its name."""
    return path.name.lower().endswith(suffixes)


def _find_stdlib() -> NamedPaths:
    root = Path(sysconfig.get_paths()["stdlib"])
    # _sysconfigdata* is generated for the machine that this Python was built on.
    paths = [
        (name, path)
        for name, path in _walk(root, _STDLIB_EXCLUDED)
        if path.suffix == ".py" and not path.name.startswith("_sysconfigdata")
    ]
    if not paths:
        raise DataError(
            f"stdlib: no .py files in {root}: this Python comes without the source of its standard "
            "library. Give --data the path of a text file or folder."
        )
    return paths


def _is_binary(path: Path) -> bool:
    """Whether a file of a folder, not one of a known binary format, has a NUL near its start."""
    if has_suffix(path, PARQUET):
        return False
    try:
        with open_file(path) as file:
            return b"\0" in file.read(_BINARY_PROBE_BYTES)
    except READ_ERRORS as error:
        raise read_error(path, error) from error


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

"""What `--data` names, and the documents in it.

A file, a folder, a glob, Python's own source ("stdlib"), or a data set by name. Text files are one
document each. JSON-lines files (`.jsonl`, and `.jsonl.gz` or `.json.gz` as the C4 shards are
named), Parquet files and data sets by name have one in the field `text` of every row. Any other
`.gz` is a compressed text file. All text is UTF-8. Empty documents are left out.
"""

import glob
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from training.data.tables import (
    HUB_PREFIX,
    is_table,
    open_bytes,
    parse_hub_name,
    read_hub,
    read_table,
    reading,
)
from training.errors import DataError

STDLIB = "stdlib"
_WILDCARDS = "*?["
# As git does: text has no NUL bytes, and binary formats have one early.
_BINARY_PROBE_BYTES = 8192
# `encodings` is left out for its generated tables: near copies of each other that would make
# the validation loss of a split by file look better than it is. _sysconfigdata* is generated too.
_STDLIB_EXCLUDED = frozenset({"encodings", "site-packages", "dist-packages"})

# (name relative to the corpus, path), ordered by name.
NamedPaths = list[tuple[str, Path]]


class Sources(NamedTuple):
    """What a corpus is read from."""

    data: str  # what the user gave
    # its files; none of a data set by name. Their names are relative to the folder, or to the part
    # of a glob before its first wildcard: the same files elsewhere are the same corpus
    files: NamedPaths
    num_binary: int = 0  # files of a folder that are left out


class Document(NamedTuple):
    """A text that is not empty, and its name within the corpus."""

    name: str
    text: str


def find_sources(data: str) -> Sources:
    """Finds what a corpus is read from.

    Args:
        data: "stdlib" for the Python source of the running interpreter's standard library, the
            path of a file or folder ("~" is the home folder), a glob, or the name of a data set as
            `training.data.tables.parse_hub_name` takes it.
    """
    if data.startswith(HUB_PREFIX):
        parse_hub_name(data)
        return Sources(data, [])
    if data == STDLIB:
        return Sources(data, _find_stdlib())
    path = Path(data).expanduser()
    with reading(path):
        if any(wildcard in data for wildcard in _WILDCARDS) and not path.exists():
            return Sources(data, _expand(path, data))
        if data and path.is_file():
            return Sources(data, [(path.name, path)])
        if data and path.is_dir():
            found = _files(path, "**")
            texts = [(name, path) for name, path in found if is_table(path) or not _is_binary(path)]
            return Sources(data, texts, len(found) - len(texts))
    raise DataError(
        f"{data!r}: no such file or folder. Give the path of a text, JSON-lines or Parquet file, a "
        'folder, a glob such as "texts/*.txt", a data set as "hf:NAME", or "stdlib".'
    )


def read_documents(sources: Sources) -> Iterator[Document]:
    """Yields the documents of a corpus, those of one file after the other."""
    if sources.data.startswith(HUB_PREFIX):
        hub = parse_hub_name(sources.data)
        yield from _numbered(":".join(filter(None, hub[:3])), read_hub(hub, ["text"]))
    for name, path in sources.files:
        if is_table(path):
            yield from _numbered(name, read_table(path, ["text"]))
        else:
            text = _read_text(path, lenient=sources.data == STDLIB)
            if text:
                yield Document(name, text)


def _numbered(name: str, rows: Iterator[tuple[str, ...]]) -> Iterator[Document]:
    return (Document(f"{name}:{row}", text) for row, (text,) in enumerate(rows, 1) if text)


def _read_text(path: Path, *, lenient: bool) -> str:
    """Reads a file as it is: the text builder of `datasets` would rewrite its ends of lines.

    Nothing is read of one that is not UTF-8 if `lenient`: the standard library has such, to test
    with.
    """
    try:
        with reading(path), open_bytes(path) as file:
            text = file.read().removeprefix(b"\xef\xbb\xbf").decode("utf-8")
        if "\0" in text:
            raise ValueError("a NUL character")
        return text
    except ValueError as error:
        if lenient:
            return ""
        raise DataError(
            f"{path}: not UTF-8 text ({error}). Convert it to UTF-8, or leave it out."
        ) from error


def _is_binary(path: Path) -> bool:
    with reading(path), open_bytes(path) as file:
        return b"\0" in file.read(_BINARY_PROBE_BYTES)


def _find_stdlib() -> NamedPaths:
    root = Path(sysconfig.get_paths()["stdlib"])
    folders = [path.name for path in root.iterdir() if path.is_dir()]
    patterns = ["*.py", *(f"{name}/**/*.py" for name in folders if name not in _STDLIB_EXCLUDED)]
    found = sorted(file for pattern in patterns for file in _files(root, pattern))
    paths = [(name, path) for name, path in found if not name.startswith("_sysconfigdata")]
    if not paths:
        raise DataError(
            f"stdlib: no .py files in {root}: this Python comes without the source of its standard "
            "library. Give --data the path of a text file or folder."
        )
    return paths


def _expand(pattern: Path, data: str) -> NamedPaths:
    """The files that a glob matches, named from its first part with a wildcard on."""
    is_plain = [not any(wildcard in part for wildcard in _WILDCARDS) for part in pattern.parts]
    first = is_plain.index(False)
    found = _files(Path(*pattern.parts[:first]), str(Path(*pattern.parts[first:])))
    if not found:
        raise DataError(
            f'{data!r}: the glob matches no files. Check the folder and the pattern; "**" matches '
            "subfolders."
        )
    return found


def _files(root: Path, pattern: str) -> NamedPaths:
    """The files below a folder that match, but hidden and compiled ones, ordered by name."""
    names = glob.glob(pattern, root_dir=root, recursive=True)
    named = [(Path(name).as_posix(), root / name) for name in names if "__pycache__" not in name]
    return sorted((name, path) for name, path in named if path.is_file())

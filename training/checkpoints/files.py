"""The files of one checkpoint: whether they are all there, as long as they were written."""

import json
import zlib
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from training.data.token_arrays import write_json

# Folders in a checkpoint's.
ITEMS = ("state", "data", "fingerprints")
FILES_FILE = "files.json"


def record_sizes(folder: Path) -> None:
    """Writes the sizes of all files of the items into a checkpoint's folder."""
    write_json(folder / FILES_FILE, _sizes(folder))


def check_sizes(folder: Path) -> None:
    """Compares the files with what `record_sizes` wrote, without reading them.

    Raises:
        ValueError: for a file that is missing or has another size.
    """
    if not (folder / FILES_FILE).is_file():
        raise ValueError(f"{FILES_FILE} is missing: it is not complete")
    expected = json.loads((folder / FILES_FILE).read_text())
    found = _sizes(folder)
    for name, size in expected.items():
        if name not in found:
            raise ValueError(f"{name} is missing")
        if found[name] != size:
            raise ValueError(f"{name} has {found[name]:,} bytes instead of {size:,}")


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file of the items, by its path in the checkpoint's folder."""
    files = (path for item in ITEMS for path in sorted((folder / item).rglob("*")))
    return {str(path.relative_to(folder)): path.stat().st_size for path in files if path.is_file()}


def read_json(folder: Path) -> Any:
    """The content of an item that Orbax wrote as JSON."""
    return ocp.JsonCheckpointHandler().restore(folder, args=ocp.args.JsonRestore())


def checksum(content: Any) -> int:
    """CRC-32 of anything that JSON can hold."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())

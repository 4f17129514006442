"""The sizes of a checkpoint's files, so that one cut short is found before its arrays are read.

Orbax raises for such a file too, but its threads and TensorStore's then print a traceback for each
array, some of them after the error has been handled (orbax-checkpoint 0.12): no caller can keep
them from the terminal.
"""

import json

from etils import epath

from training.files import walk, write_json

FILES_FILE = "files.json"


def record_sizes(folder: epath.Path) -> None:
    """Writes the sizes of all files into a checkpoint's folder."""
    write_json(folder / FILES_FILE, _sizes(folder))


def check_sizes(folder: epath.Path) -> None:
    """Compares the files with what `record_sizes` wrote, without reading them; a file that is
    missing or has another size is a `ValueError`."""
    if not (folder / FILES_FILE).exists():
        raise ValueError(f"{FILES_FILE} is missing: it is not complete")
    found = _sizes(folder)
    for name, size in json.loads((folder / FILES_FILE).read_text()).items():
        if name not in found:
            raise ValueError(f"{name} is missing")
        if found[name] != size:
            raise ValueError(f"{name} has {found[name]:,} bytes instead of {size:,}")


def _sizes(folder: epath.Path) -> dict[str, int]:
    """Bytes of every file of the items, by its path in the checkpoint's folder."""
    return {
        str(path.relative_to(folder)): path.stat().length
        for parent, files in walk(folder)
        if parent != folder
        for path in files
    }

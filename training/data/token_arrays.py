"""Token arrays on disk: written once, checksummed, and memory-mapped for training.

A folder of them holds `train.npy`, `validation.npy`, the tokenizer and `manifest.json`.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.data.tokenizers import Tokenizer, stored_tokenizer
from training.errors import DataError

MANIFEST_FILE = "manifest.json"
FORMAT = "lowrank_optax token arrays"
VERSION = 2
# split -> its file
SPLITS = {"training": "train.npy", "validation": "validation.npy"}
_AGAIN = "Prepare the data again with `train.py prepare` into another folder."


def file_checksum(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_arrays(
    folder: Path,
    pieces: Iterable[tuple[np.ndarray, np.ndarray]],
    sizes: dict[str, int],
    dtype: np.dtype,
) -> dict[str, dict[str, Any]]:
    """Writes the array of each split, piece by piece, so that they need not fit into memory.

    Args:
        folder: to write to.
        pieces: (tokens (n,), held out bool (n,)); every document ends with a separator.
        sizes: tokens of each split, of which the last one, a separator, is left out.
        dtype: of the tokens.

    Returns:
        For each split: its file, checksum, bytes and tokens.
    """
    with contextlib.ExitStack() as stack:
        files = {
            split: stack.enter_context((folder / name).open("wb")) for split, name in SPLITS.items()
        }
        for split, file in files.items():
            header = {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": (sizes[split] - 1,),
            }
            np.lib.format.write_array_header_1_0(file, header)
        # Not by a memory map, which a full disk would end with SIGBUS.
        for tokens, held_out in pieces:
            files["training"].write(tokens[~held_out].tobytes())
            files["validation"].write(tokens[held_out].tobytes())
        for file in files.values():
            file.truncate(file.tell() - dtype.itemsize)
            file.flush()
            os.fsync(file.fileno())
    return {
        split: {
            "file": name,
            "sha256": file_checksum(folder / name),
            "bytes": (folder / name).stat().st_size,
            "tokens": sizes[split] - 1,
        }
        for split, name in SPLITS.items()
    }


@dataclass(frozen=True)
class TokenArrays:
    """A folder of token arrays, opened.

    Attributes:
        manifest: content of its manifest.json.
        tokenizer: that the tokens were made with.
        training: tokens of the training documents.
        validation: tokens of the validation documents.
    """

    manifest: dict[str, Any]
    tokenizer: Tokenizer
    training: np.ndarray
    validation: np.ndarray

    @property
    def checksums(self) -> dict[str, str]:
        """SHA-256 of every array file."""
        return {file: self.manifest[split]["sha256"] for split, file in SPLITS.items()}


def unfinished(folder: Path) -> Path:
    """Returns the folder that is renamed when all of a prepared one is in it."""
    return folder.with_name(folder.name + ".unfinished")


def is_prepared(data: str) -> bool:
    """Returns whether `data` is a folder that `train.py prepare` has written or begun."""
    folder = Path(data).expanduser()
    manifest = folder / MANIFEST_FILE
    if manifest.is_file():
        return f'"{FORMAT}"' in manifest.read_text("utf-8", errors="replace")
    return bool(folder.name) and not folder.exists() and unfinished(folder).is_dir()


def open_token_arrays(folder: Path, *, verify: bool = False, mapped: bool = True) -> TokenArrays:
    """Opens a prepared folder. Every file's size and header are checked.

    Args:
        folder: that `train.py prepare` has written.
        verify: whether to read all files and compare their checksums, too.
        mapped: leave the tokens in their files; otherwise they are read into memory.

    Raises:
        DataError: the folder is not complete, or a file is missing, truncated or changed; the
            message names it.
    """
    manifest = read_manifest(folder)
    dtype = np.dtype(manifest["dtype"])
    arrays = {split: _open_array(folder, manifest[split], dtype, mapped) for split in SPLITS}
    for record in (manifest[split] for split in SPLITS if verify):
        if file_checksum(folder / record["file"]) != record["sha256"]:
            raise DataError(
                f"{folder / record['file']}: its checksum differs from the one in {MANIFEST_FILE}: "
                f"the file has changed since it was written. {_AGAIN}"
            )
    tokenizer = stored_tokenizer(folder, manifest["tokenizer"]["name"])
    if tokenizer.checksum != manifest["tokenizer"]["sha256"]:
        raise DataError(
            f"{folder}: the tokenizer's file in this folder has changed since the data were "
            f"prepared with it. Restore it. {_AGAIN}"
        )
    return TokenArrays(manifest, tokenizer, **arrays)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the content of a folder's manifest.json.

    Raises:
        DataError: it is missing, not valid, or of another version.
    """
    path = folder / MANIFEST_FILE
    if not path.exists():
        raise DataError(
            f"{folder}: the preparation of these data is not finished. Run the same `train.py "
            "prepare` again: it continues where it was stopped."
        )
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}. {_AGAIN}") from error
    found = (manifest.get("format"), manifest.get("version"))
    if found != (FORMAT, VERSION):
        raise DataError(
            f"{path}: is of format {found[0]!r}, version {found[1]!r}; this program reads "
            f"{FORMAT!r}, version {VERSION}. {_AGAIN}"
        )
    return manifest


def _open_array(folder: Path, record: dict[str, Any], dtype: np.dtype, mapped: bool) -> np.ndarray:
    """Opens a file after its size and header were checked against its record."""
    path = folder / record["file"]
    if not path.exists():
        raise DataError(f"{path}: this file of the prepared data is missing. {_AGAIN}")
    size = path.stat().st_size
    if size != record["bytes"]:
        problem = "truncated" if size < record["bytes"] else "too long"
        raise DataError(
            f"{path}: {problem}: {size:,} bytes, but {record['bytes']:,} were written. {_AGAIN}"
        )
    try:
        array = np.load(path, mmap_mode="r" if mapped else None)
    except ValueError as error:
        raise DataError(f"{path}: not a valid .npy file ({error}). {_AGAIN}") from error
    if array.dtype != dtype or array.shape != (record["tokens"],):
        raise DataError(
            f"{path}: holds {array.dtype} of shape {array.shape}, but {dtype} of shape "
            f"({record['tokens']},) was written. {_AGAIN}"
        )
    return array.view(np.ndarray)

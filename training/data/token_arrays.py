"""Token arrays on disk: written once, checksummed, and memory-mapped for training.

A folder of them holds arrays `train-00000.npy`, ... and `validation-00000.npy`, ..., the
tokenizer, and `manifest.json`, which is written last: a folder with one is complete.
"""

import hashlib
import json
import os
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from training.data.reading import DataError
from training.data.tokenizers import Tokenizer, stored_tokenizer

MANIFEST_FILE = "manifest.json"
# What `train.py prepare` keeps in its folder until it is done.
PLAN_FILE = "preparation.json"
FORMAT = "lowrank_optax token arrays"
VERSION = 1
# split -> how its arrays' names begin
SPLITS = {"training": "train", "validation": "validation"}
_AGAIN = "Prepare the data again with `train.py prepare` into another folder."


class TokenArrayWriter:
    """Writes one array piece by piece, so that it need not fit into memory.

    What is written goes to a temporary file, which `finish` renames: a file with the final name
    is complete.

    Args:
        path: final name of the .npy file.
        dtype: of the tokens.
    """

    def __init__(self, path: Path, dtype: np.dtype):
        self._path = path
        self._temporary = path.with_suffix(".tmp")
        self._dtype = np.dtype(dtype)
        self._file: BinaryIO = self._temporary.open("wb")
        self.num_tokens = 0
        self._write_header()

    def _write_header(self) -> None:
        # NumPy leaves room in a header for the first axis to grow: its length does not change.
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self.num_tokens,),
        }
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, tokens: np.ndarray) -> None:
        """Writes tokens (tokens,) behind those written before."""
        self._file.write(tokens.astype(self._dtype).tobytes())
        self.num_tokens += len(tokens)

    def finish(self) -> dict[str, Any] | None:
        """Completes the file.

        Returns:
            Its name, checksum, bytes and tokens; None, and no file, if it holds no token.
        """
        if not self.num_tokens:
            self.discard()
            return None
        self._file.seek(0)
        self._write_header()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        record = {
            "file": self._path.name,
            "sha256": file_checksum(self._temporary),
            "bytes": self._temporary.stat().st_size,
            "tokens": self.num_tokens,
        }
        self._temporary.replace(self._path)
        return record

    def discard(self) -> None:
        """Removes what was written."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def file_checksum(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file that is either complete or not there."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class MappedTokens:
    """Tokens in several memory-mapped files, as one vector that is sliced like an array.

    A slice is copied out of the files; nothing else is ever in memory.

    Args:
        paths: .npy files of vectors of one integer type, not empty.

    Attributes:
        dtype, ndim, shape: as of an array.
    """

    ndim = 1

    def __init__(self, paths: list[Path]):
        self._paths = paths
        self._arrays = [np.load(path, mmap_mode="r") for path in paths]
        self._starts = np.cumsum([0, *map(len, self._arrays)]).tolist()
        self.dtype = self._arrays[0].dtype
        self.shape = (self._starts[-1],)

    def __reduce__(self) -> tuple[type, tuple[list[Path]]]:
        # A pickled memory map would be a copy of the whole file.
        return MappedTokens, (self._paths,)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, where: slice) -> np.ndarray:
        """Returns the tokens (stop - start,) of a slice without a step."""
        start, stop, step = where.indices(len(self))
        if step != 1:
            raise ValueError(f"mapped tokens are sliced without a step, got {where}.")
        pieces = []
        index = bisect_right(self._starts, start) - 1
        while start < stop:
            base = self._starts[index]
            end = min(stop, self._starts[index + 1])
            pieces.append(self._arrays[index][start - base : end - base])
            start, index = end, index + 1
        return np.concatenate(pieces) if pieces else np.empty(0, self.dtype)


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
    training: MappedTokens
    validation: MappedTokens

    @property
    def checksums(self) -> dict[str, str]:
        """SHA-256 of every array file."""
        return {record["file"]: record["sha256"] for record in array_records(self.manifest)}


def array_records(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the records of all array files of a manifest."""
    return [record for split in SPLITS for record in manifest[split]["arrays"]]


def is_prepared(data: str) -> bool:
    """Returns whether `data` is a folder that `train.py prepare` has written or begun."""
    folder = Path(data).expanduser()
    manifest = folder / MANIFEST_FILE
    if manifest.is_file():
        return f'"{FORMAT}"' in manifest.read_text("utf-8", errors="replace")
    return (folder / PLAN_FILE).is_file()


def open_token_arrays(folder: Path, *, verify: bool = False) -> TokenArrays:
    """Opens a prepared folder. Every file's size and header are checked.

    Args:
        folder: that `train.py prepare` has written.
        verify: whether to read all files and compare their checksums, too.

    Raises:
        DataError: the folder is not complete, or a file is missing, truncated or changed; the
            message names it.
    """
    manifest = read_manifest(folder)
    dtype = np.dtype(manifest["dtype"])
    for record in array_records(manifest):
        _check_array(folder / record["file"], record, dtype)
        if verify:
            _check_checksum(folder / record["file"], record)
    tokenizer = stored_tokenizer(folder, manifest["tokenizer"]["name"])
    if tokenizer.checksum != manifest["tokenizer"]["sha256"]:
        raise DataError(
            f"{folder}: the tokenizer's file in this folder has changed since the data were "
            f"prepared with it. Restore it. {_AGAIN}"
        )
    training, validation = (
        MappedTokens([folder / record["file"] for record in manifest[split]["arrays"]])
        for split in SPLITS
    )
    return TokenArrays(manifest, tokenizer, training, validation)


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


def _check_array(path: Path, record: dict[str, Any], dtype: np.dtype) -> None:
    """Checks a file's size and header against its record."""
    if not path.exists():
        raise DataError(f"{path}: this file of the prepared data is missing. {_AGAIN}")
    size = path.stat().st_size
    if size != record["bytes"]:
        problem = "truncated" if size < record["bytes"] else "too long"
        raise DataError(
            f"{path}: {problem}: {size:,} bytes, but {record['bytes']:,} were written. {_AGAIN}"
        )
    try:
        array = np.load(path, mmap_mode="r")
    except ValueError as error:
        raise DataError(f"{path}: not a valid .npy file ({error}). {_AGAIN}") from error
    if array.dtype != dtype or array.shape != (record["tokens"],):
        raise DataError(
            f"{path}: holds {array.dtype} of shape {array.shape}, but {dtype} of shape "
            f"({record['tokens']},) was written. {_AGAIN}"
        )


def _check_checksum(path: Path, record: dict[str, Any]) -> None:
    if file_checksum(path) != record["sha256"]:
        raise DataError(
            f"{path}: its checksum differs from the one in {MANIFEST_FILE}: the file has changed "
            f"since it was written. {_AGAIN}"
        )

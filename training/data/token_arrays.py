"""Token arrays on disk: written once, checksummed, and memory-mapped for training.

A folder of them holds `train.bin`, `validation.bin` (tokens and nothing else, of the type that the
manifest names), the tokenizer and `manifest.json`.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.filesize import decimal

from training.data.tables import reading
from training.data.tokenizers import Tokenizer
from training.errors import DataError
from training.files import write_json

MANIFEST_FILE = "manifest.json"
FORMAT = "lowrank_optax token arrays"
VERSION = 3
# split -> its file
SPLITS = {"training": "train.bin", "validation": "validation.bin"}
_AGAIN = "Prepare the data again with `train.py prepare` into another folder."


def file_checksum(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes."""
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_arrays(
    folder: Path,
    documents: Iterable[tuple[bool, np.ndarray]],
    tokenizer: Tokenizer,
    facts: Mapping[str, Any],
) -> None:
    """Writes the array of each split, the tokenizer and, last, the manifest. A split without tokens
    is a `DataError`.

    Args:
        documents: (held out, tokens (n,)), one at a time, so that they need not fit into memory;
            each ends with a separator, and that of the last one in a split is left out.
        facts: what the manifest says besides; of a split under its name.
    """
    dtype = np.min_scalar_type(tokenizer.vocab_size - 1)
    manifest: dict[str, Any] = {"format": FORMAT, "version": VERSION, "dtype": str(dtype), **facts}
    manifest["tokenizer"] = {"name": tokenizer.name, "sha256": tokenizer.checksum}
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((folder / name).open("wb")) for name in SPLITS.values()]
        # Not by a memory map, which a full disk would end with SIGBUS.
        for held_out, tokens in documents:
            files[held_out].write(tokens.astype(dtype).tobytes())
        for (split, name), file in zip(SPLITS.items(), files, strict=True):
            count = file.tell() // dtype.itemsize - 1
            if count < 1:
                raise DataError(
                    f"the tokenizer makes no token of the {split} documents. Give more text."
                )
            file.truncate(count * dtype.itemsize)
            file.flush()
            os.fsync(file.fileno())
            record = {"file": name, "sha256": file_checksum(folder / name), "tokens": count}
            manifest[split] = record | facts[split]
    tokenizer.save(folder)
    write_json(folder / MANIFEST_FILE, manifest)


def is_prepared(data: str) -> bool:
    """Returns whether `data` is a folder that `train.py prepare` has written."""
    manifest = Path(data).expanduser() / MANIFEST_FILE
    return manifest.is_file() and f'"{FORMAT}"' in manifest.read_text("utf-8", errors="replace")


def open_token_arrays(
    folder: Path, *, verify: bool = False, mapped: bool = True
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The content of a prepared folder's manifest, and the tokens of each split: left in their
    files, or read into memory where they are not to be mapped.

    Every file's size is checked, and with `verify` its checksum too: a `DataError` names one that
    is missing, truncated or changed.
    """
    manifest = read_manifest(folder)
    dtype = np.dtype(manifest["dtype"])
    arrays = {}
    for split, name in SPLITS.items():
        path, size = folder / name, manifest[split]["tokens"] * dtype.itemsize
        found = path.stat().st_size if path.exists() else 0
        if found != size:
            raise DataError(
                f"{path}: truncated, changed or missing: {found:,} bytes, but {size:,} were "
                f"written. {_AGAIN}"
            )
        if verify and file_checksum(path) != manifest[split]["sha256"]:
            raise DataError(
                f"{path}: its checksum differs from the one in {MANIFEST_FILE}: the file has "
                f"changed since it was written. {_AGAIN}"
            )
        array = np.memmap(path, dtype, "r") if mapped else np.fromfile(path, dtype)
        arrays[split] = array.view(np.ndarray)
    return manifest, arrays


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the content of a folder's manifest.json."""
    path = folder / MANIFEST_FILE
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


def describe_manifest(manifest: Mapping[str, Any]) -> str:
    """The sizes of a corpus for people: "1,547 documents, 28.5 MB, 7,200,000 tokens to ..."."""
    sizes = [
        f"{part['documents']:,} document{'' if part['documents'] == 1 else 's'}, "
        f"{decimal(part['text_bytes'])}, {part['tokens']:,} tokens"
        for part in (manifest[split] for split in SPLITS)
    ]
    num_binary = manifest["binary_left_out"]
    left_out = f" ({num_binary} binary files left out)" if num_binary else ""
    return f"{sizes[0]} to train on, {sizes[1]} held out{left_out}"

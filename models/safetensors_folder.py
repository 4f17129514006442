"""The tensors of a folder of safetensors files: one file, or several with an index.

Files are mapped into memory and read slice by slice, so that nothing is held but what was asked
for. Pickled checkpoints are never opened: to load one can run any code.
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")

DTYPES = {
    "BF16": np.dtype(jnp.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in an open file.

    Attributes:
      path: of the file.
      shape: of the whole tensor.
      dtype: one of ``DTYPES``.
    """

    path: pathlib.Path
    shape: tuple[int, ...]
    dtype: np.dtype
    _slices: Any

    def read(self, *slices: slice) -> np.ndarray:
        """A part of the tensor, copied into memory.

        Args:
          *slices: of every axis, with start and stop.
        """
        return self._slices[slices]


@contextlib.contextmanager
def open_tensors(folder: pathlib.Path) -> Iterator[dict[str, StoredTensor]]:
    """All tensors of a folder by name, readable within the ``with`` block.

    Args:
      folder: with ``model.safetensors``, or several files and ``model.safetensors.index.json``.

    Raises:
      ValueError: no safetensors, a file that is missing, cut short or not what the index says, or
        a dtype that is not a plain float, with the path and the remedy.
    """
    with contextlib.ExitStack() as stack:
        tensors = {}
        for path, expected in _files(folder).items():
            file = stack.enter_context(_open(path))
            for name in file.keys() if expected is None else expected:
                tensors[name] = _stored_tensor(file, path, name)
        yield tensors


def _files(folder: pathlib.Path) -> dict[pathlib.Path, list[str] | None]:
    """The files to read, each with the tensors that the index promises in it."""
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.is_file():
        return {single: None}
    if not index.is_file():
        raise ValueError(_no_safetensors(folder))
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{index} has no readable 'weight_map' ({error!r}); download it again"
        ) from error
    files: dict[pathlib.Path, Any] = {}
    for name, file in weight_map.items():
        files.setdefault(folder / file, []).append(name)
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} of the {len(files)} files that {INDEX_FILE} names: "
            f"{', '.join(missing)}; download them"
        )
    return files


def _no_safetensors(folder: pathlib.Path) -> str:
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        return (
            f"{folder} holds its weights in {', '.join(pickled)} only, which is refused: a pickle "
            "can run any code when it is loaded. Where you trust it, convert it to safetensors "
            "with transformers: AutoModelForCausalLM.from_pretrained(FOLDER)"
            ".save_pretrained(NEW_FOLDER)"
        )
    return f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}; is its download complete?"


def _open(path: pathlib.Path) -> Any:
    try:
        return safe_open(path, framework="np")
    except SafetensorError as error:
        raise ValueError(
            f"{path} is cut short or not a safetensors file ({error}); download it again"
        ) from error


def _stored_tensor(file: Any, path: pathlib.Path, name: str) -> StoredTensor:
    try:
        slices = file.get_slice(name)
    except SafetensorError as error:
        raise ValueError(
            f"{path} does not hold {name!r}, which {INDEX_FILE} says; download both again"
        ) from error
    dtype = slices.get_dtype()
    if dtype not in DTYPES:
        raise ValueError(
            f"{path}: {name} has dtype {dtype}, which is not supported; use a checkpoint in one of "
            f"{', '.join(DTYPES)}"
        )
    return StoredTensor(path, tuple(slices.get_shape()), DTYPES[dtype], slices)


def write_tensors(
    folder: pathlib.Path,
    sizes: Mapping[str, int],
    read: Callable[[str], np.ndarray],
    max_shard_size: int,
) -> None:
    """Writes tensors in as few files as the largest size allows.

    The files get their names once all of them are complete.

    Args:
      folder: an existing one without safetensors.
      sizes: name and bytes of every tensor, in the order to write.
      read: the tensor of a name; held in memory until its file is written.
      max_shard_size: bytes of tensors in a file; a larger tensor has a file of its own.

    Raises:
      OSError: a file cannot be written, e.g. on a full disk; no file of the model is left.
    """
    shards = _shards(sizes, max_shard_size)
    files = [SINGLE_FILE]
    if len(shards) > 1:
        count = len(shards)
        files = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
        written = pathlib.Path(temporary)
        ordinary = written / "ordinary"
        ordinary.touch()
        for file, names in zip(files, shards, strict=True):
            # safetensors writes the memory as it lies, whatever an array's strides are.
            tensors = {name: np.ascontiguousarray(read(name)) for name in names}
            try:
                save_file(tensors, written / file, metadata={"format": "pt"})
            except SafetensorError as error:
                raise OSError(f"cannot write {folder / file}: {error}") from error
            shutil.copymode(ordinary, written / file)  # safetensors lets only the owner read
        if len(files) > 1:
            weight_map = {
                name: file for file, names in zip(files, shards, strict=True) for name in names
            }
            index = {
                "metadata": {"total_size": sum(sizes.values())},
                "weight_map": dict(sorted(weight_map.items())),
            }
            (written / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")
            files = [*files, INDEX_FILE]
        for file in files:
            (written / file).rename(folder / file)


def _shards(sizes: Mapping[str, int], max_shard_size: int) -> list[list[str]]:
    """Names of the tensors of each file, in order."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > max_shard_size:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards

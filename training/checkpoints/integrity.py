"""Whether a checkpoint is what was saved: the sizes of its files, and a number for every array.

By the sizes a file that is cut short is found before its arrays are read. Orbax raises for such a
file too, but its threads and TensorStore's then print a traceback for each array, some of them
after the error has been handled (orbax-checkpoint 0.12): no caller can keep them from the terminal.

TensorStore does not notice a bit that has changed within a file: the numbers tell whether arrays
are, bit for bit, what they were when they were saved.
"""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from training.checkpoints.trees import by_path
from training.files import walk, write_json

FILES_FILE = "files.json"
_GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio, odd


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


def fingerprints(tree: Any) -> dict[str, int]:
    """Path -> a 32-bit number, for every array of a tree, made of all its bits.

    The sum, modulo 2^32, of a hash of every entry, of any type of 8 to 64 bits, with its place:
    another value of a single entry always gives another number. Integer arithmetic throughout, so
    that it is the same on every device and however the array is sharded; nothing but the sums is
    communicated.

    >>> import jax.numpy as jnp
    >>> before, after = fingerprints({"a": jnp.zeros(3)}), fingerprints({"a": -jnp.zeros(3)})
    >>> list(before), before == after
    (['a'], False)
    """
    arrays = by_path(tree)
    if not arrays:
        return {}
    numbers = np.asarray(_all_of(list(arrays.values())))
    return dict(zip(arrays, numbers.tolist(), strict=True))


@jax.jit
def _all_of(arrays: list[jax.Array]) -> jax.Array:
    return jnp.stack([_of_array(array) for array in arrays])


def _of_array(array: jax.Array) -> jax.Array:
    bits = _bits(array)
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis, size in enumerate(bits.shape):
        place = place * jnp.uint32(size % 2**32) + jax.lax.broadcasted_iota(
            jnp.uint32, bits.shape, axis
        )
    return jnp.sum(_mix(bits ^ _mix(place * jnp.uint32(_GOLDEN))), dtype=jnp.uint32)


def _bits(array: jax.Array) -> jax.Array:
    """uint32 of the array's shape, with one more axis where its entries take 64 bits."""
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    width = array.dtype.itemsize
    if width == 8:
        return jax.lax.bitcast_convert_type(array, jnp.uint32)
    return jax.lax.bitcast_convert_type(array, f"uint{8 * width}").astype(jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
    """The last step of MurmurHash3: a permutation of the 32-bit numbers without a pattern."""
    for factor, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 16)

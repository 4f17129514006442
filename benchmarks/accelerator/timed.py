"""Rounds of compiled programs on whatever device there is."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from benchmarks.timing import interleaved_seconds


def seconds(functions: Mapping[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Name to seconds per call, one number a round, as the device works off its queue."""
    return interleaved_seconds(functions, queued=jax.default_backend() != "cpu")


def array_bytes(tree: Any) -> int:
    """Bytes of a tree of arrays."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))

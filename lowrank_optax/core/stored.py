"""The inner optimizer's first moment, stored as `mu_dtype` says between the steps."""

import dataclasses
import zlib
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from lowrank_optax.axes.moments import FIRST_MOMENTS, first_moment, inner_name, template_state
from lowrank_optax.linalg.quantization import Quantized
from lowrank_optax.linalg.storage import Storage


@dataclasses.dataclass(frozen=True)
class StoredMoment:
    """From the inner optimizer's own state to the one that is kept, and back.

    All parts of the engine, and the inner optimizer, see the moment in its own dtype.
    """

    storage: Storage

    def narrow(self, state: Any, key: PRNGKeyArray) -> Any:
        """The state that is kept."""
        if self.storage.dtype is None:
            return state

        def store(path: Any, x: Any) -> Any:
            if not _is_first(path):
                return x
            name = jax.tree_util.keystr(path).encode()
            return self.storage.pack(x, jax.random.fold_in(key, zlib.crc32(name)))

        return jax.tree_util.tree_map_with_path(store, state)

    def start(self, state: Any) -> Any:
        """The same before the first step, where moments are zero."""
        if self.storage.dtype is None:
            return state
        zeros = lambda path, x: self.storage.zeros(x.shape, x.dtype) if _is_first(path) else x
        return jax.tree_util.tree_map_with_path(zeros, state)

    def widen(self, template: Any, stored: Any) -> Any:
        """The inner optimizer's state, like the template, from the one that is kept."""
        if self.storage.dtype is None:
            return stored

        def read(path: Any, like: Any, x: Any) -> Any:
            first = _is_first(path)
            return self.storage.unpack(x, like.shape[-2], like.dtype) if first else x

        return jax.tree_util.tree_map_with_path(read, template, stored)

    def of_codes(self, template: Any, partitions: Any) -> Any:
        """Partitions of the inner optimizer's state from those of the one that is kept."""
        read = lambda _, stored: stored.codes if isinstance(stored, Quantized) else stored
        return jax.tree.map(read, template, partitions)

    def check(self, parts: Any) -> None:
        """Raise if a moment is to be stored that the inner optimizer does not have."""
        if self.storage.dtype is not None and first_moment(template_state(parts.inner)) is None:
            raise ValueError(
                f"mu_dtype={self.storage.dtype!r} does nothing: the state of "
                f"{inner_name(parts.inner)} has no first moment that is a plain array; leave "
                "mu_dtype=None."
            )


def _is_first(path: Any) -> bool:
    """Whether a path leads to a first moment."""
    return any(getattr(entry, "name", None) in FIRST_MOMENTS for entry in path)

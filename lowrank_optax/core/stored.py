"""The inner optimizer's first moment, stored as `mu_dtype` says between the steps."""

import dataclasses
import zlib
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from lowrank_optax.axes.moments import (
    FIRST_MOMENTS,
    Path,
    fields,
    first_moment,
    inner_name,
    is_within,
    template_state,
)
from lowrank_optax.linalg.quantization import Quantized
from lowrank_optax.linalg.storage import Storage


@dataclasses.dataclass(frozen=True)
class StoredMoment:
    """From the inner optimizer's own state to the one that is kept, and back.

    All parts of the engine, and the inner optimizer, see the moment in its own dtype. `params` is a
    tree like the parameters, of which the state holds others.
    """

    storage: Storage

    def narrow(self, state: Any, params: Any, key: PRNGKeyArray) -> Any:
        """The state that is kept."""
        if self.storage.dtype is None:
            return state
        firsts = _firsts(state, params)

        def store(path: Any, x: Any) -> Any:
            if not is_within(path, firsts):
                return x
            name = jax.tree_util.keystr(path).encode()
            return self.storage.pack(x, jax.random.fold_in(key, zlib.crc32(name)))

        return jax.tree_util.tree_map_with_path(store, state)

    def start(self, state: Any, params: Any) -> Any:
        """The same before the first step, where moments are zero."""
        if self.storage.dtype is None:
            return state
        firsts = _firsts(state, params)

        def zeros(path: Any, x: Any) -> Any:
            return self.storage.zeros(x.shape, x.dtype) if is_within(path, firsts) else x

        return jax.tree_util.tree_map_with_path(zeros, state)

    def widen(self, template: Any, stored: Any, params: Any) -> Any:
        """The inner optimizer's state, like the template, from the one that is kept."""
        if self.storage.dtype is None:
            return stored
        firsts = _firsts(template, params)

        def read(path: Any, like: Any, x: Any) -> Any:
            if not is_within(path, firsts):
                return x
            return self.storage.unpack(x, like.shape[-2], like.dtype)

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
                f"{inner_name(parts.inner)} has no first moment that is a plain array, or several; "
                "leave mu_dtype=None."
            )


def _firsts(state: Any, params: Any) -> list[Path]:
    """The paths of the first moments; several where every matrix has a state of its own."""
    return [path for name in FIRST_MOMENTS for path in fields(state, name, params)]

"""Rests that the search has tried and the library does without: that remember, in mixed blocks."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

import lowrank_optax as lro

BLOCKS = 4
STATIC = dict(static=True)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Remembering(lro.residuals.Residual):
    """The rest has a momentum too: M ← μ M + E outside the chosen columns, zero in them.

    With Nesterov, as the chosen columns: the rest of the step is orth(μ M + E) in blocks.

    State: M, of the size of the matrix, as it is stored.
    """

    momentum: float = dataclasses.field(metadata=STATIC)
    storage: Any = dataclasses.field(default=None, metadata=STATIC)
    blocks: int = dataclasses.field(default=BLOCKS, metadata=STATIC)

    def init(self, shape: Any, dtype: Any) -> Any:
        """Zeros."""
        return lro.storage(self.storage).zeros(shape, dtype)

    def finish(self, step: Any, state: Any) -> Any:
        """The step in weight space, and M."""
        stored, E = lro.storage(self.storage), step.outside()
        M = stored.unpack(state, E.shape[-2], E.dtype)
        M = self.momentum * step.subspace.reweight(M, step.subspace.project(M), 0.0, 1.0) + E
        rest = lro.residuals.orthonormal(self.blocks).rest(self.momentum * M + E)
        return step.with_rest(rest, 1.0), stored.pack(M)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mixed(lro.residuals.Residual):
    """Every step has other blocks: the rows are drawn into them anew.

    State: the number of steps, one a matrix.
    """

    def init(self, shape: Any, dtype: Any) -> Any:
        """No step yet."""
        del dtype
        return jnp.zeros(shape[:-2], jnp.int32)

    def finish(self, step: Any, state: Any) -> Any:
        """The step in weight space, and the number of steps."""
        E = step.outside()
        key = jax.random.fold_in(jax.random.key(0), state.ravel()[0])
        order = jax.random.permutation(key, E.shape[-2])
        mixed = lro.residuals.orthonormal(BLOCKS).rest(jnp.take(E, order, axis=-2))
        return step.with_rest(jnp.take(mixed, jnp.argsort(order), axis=-2), 1.0), state + 1

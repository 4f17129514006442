"""The engine: any combination of the five axes as an optax transformation."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray

from lowrank_optax.core.axes import LowRankState, Parts
from lowrank_optax.core.halves import Halves, low_rank_zeros
from lowrank_optax.core.matrices import MatrixTree
from lowrank_optax.core.spec_table import SpecTable
from lowrank_optax.core.trees import blaming_the_state, in_own_structure
from lowrank_optax.linalg.devices import typed_spec
from lowrank_optax.linalg.precision import exact_like
from lowrank_optax.sharding.placement import Placement
from lowrank_optax.sharding.regions import retyped_like, run_in_auto


@dataclasses.dataclass(frozen=True)
class Engine:
    """`init` and `update` of `scale_by_low_rank`, which documents what these fields hold.

    The mathematics of the axes leaves the placing of its results to the compiler, also where mesh
    axes are `Explicit`. The inner optimizer runs between its two halves, on the caller's mesh.
    """

    parts: Parts
    specs: Callable[[Any], SpecTable]
    zero_axis: Any
    seed: Any
    step_dtype: Any

    def init(self, params: Any) -> LowRankState:
        return self._placement(params).initial_state(params)

    def update(
        self, updates: Any, state: LowRankState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, LowRankState]:
        if params is not None:
            updates = jax.tree.map(exact_like, updates, params)
        with blaming_the_state(state, updates, self._start_state):
            state = in_own_structure(state, updates, self._start_state)
            return self._step(updates, state, params, **extra_args)

    def _step(
        self, updates: Any, state: LowRankState, params: Any, **extra_args: Any
    ) -> tuple[Any, LowRankState]:
        placement = self._placement(updates)
        halves = Halves(placement, self.step_dtype)
        start = self._inner_state(placement.tree)
        first = run_in_auto(
            halves.before,
            lambda: halves.partitions(self.parts, state, start, params),
            placement.mesh,
            *(self.parts, updates, state, start, params),
        )
        directions, inner = self._inner.update(
            first.a, first.inner, first.coordinates, **extra_args
        )
        inner = retyped_like(inner, first.inner)
        steps, residual, inner = run_in_auto(
            halves.after,
            lambda: jax.tree.map(typed_spec, (updates, state.residual, state.inner)),
            placement.mesh,
            *(self.parts, updates, first, directions, inner),
        )
        new_state = LowRankState(
            count=optax.safe_increment(state.count),
            key=state.key,
            schedule=first.schedule,
            basis=first.settled,
            inner=inner,
            residual=residual,
        )
        return steps, placement.settle(new_state)

    def _placement(self, params: Any) -> Placement:
        tree = MatrixTree(params, self.specs(params))
        return Placement(tree, self.parts.projection.whole, self.zero_axis, self._start_state)

    def _start_state(self, params: Any) -> LowRankState:
        """The state before the first step, wherever it is."""
        tree = MatrixTree(params, self.specs(params))
        key = as_key(self.seed)
        parts = self.parts

        def basis(i: int) -> Any:
            spec = tree.matrices[i]
            try:
                return parts.projection.init(
                    spec.view, spec.rank, tree.dtype(i), jax.random.fold_in(key, i)
                )
            except ValueError as error:
                raise ValueError(f"{spec.path} of shape {spec.leaf_shape}: {error}") from error

        return LowRankState(
            count=jnp.zeros((), jnp.int32),
            key=key,
            schedule=tree.build(lambda i: parts.schedule.init()),
            basis=tree.build(basis),
            inner=parts.stored.start(self._inner_state(tree), params),
            residual=tree.build(
                lambda i: parts.residual.init(tree.matrices[i].view, tree.dtype(i))
            ),
        )

    def _inner_state(self, tree: MatrixTree) -> Any:
        """The inner optimizer's state before the first step."""
        return self._inner.init(low_rank_zeros(tree, self.parts.projection))

    @property
    def _inner(self) -> optax.GradientTransformationExtraArgs:
        """The inner optimizer of all matrices."""
        parts = self.parts
        return for_each(parts.inner) if parts.schedule.by_matrix else parts.inner


def for_each(
    tx: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer of its own, and so a state, for every array of a tree."""

    def init(params: Any) -> Any:
        return jax.tree.map(tx.init, params)

    def update(updates: Any, states: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        leaves, treedef = jax.tree.leaves(updates), cast(Any, jax.tree.structure(updates))
        beside = [None] * len(leaves) if params is None else treedef.flatten_up_to(params)
        both = [
            tx.update(*each, **extra_args)
            for each in zip(leaves, treedef.flatten_up_to(states), beside, strict=True)
        ]
        return treedef.unflatten([u for u, _ in both]), treedef.unflatten([s for _, s in both])

    return optax.GradientTransformationExtraArgs(init, update)


def as_key(seed: Any) -> PRNGKeyArray:
    """A random key from a number; of a key, of the new or the old kind, a copy to be donated."""
    is_key = hasattr(seed, "dtype") and (
        jnp.issubdtype(seed.dtype, jax.dtypes.prng_key) or seed.ndim == 1
    )
    return jnp.copy(seed) if is_key else jax.random.PRNGKey(seed)

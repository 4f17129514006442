"""The engine: any combination of the five axes as an optax transformation."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray

from lowrank_optax.core.axes import Axes, LowRankState
from lowrank_optax.core.halves import FirstHalf, Halves, low_rank_zeros
from lowrank_optax.core.matrices import MatrixTree, SpecTable
from lowrank_optax.core.stored import StoredMoment
from lowrank_optax.core.trees import in_own_structure
from lowrank_optax.sharding.placement import Placement
from lowrank_optax.sharding.regions import initialise, retyped_like, run_in_auto
from lowrank_optax.sharding.types import typed_spec


@dataclasses.dataclass(frozen=True)
class Engine:
    """`init` and `update` of `scale_by_low_rank`, which documents what these fields hold.

    The mathematics of the axes leaves the placing of its results to the compiler, also where mesh
    axes are `Explicit`. The inner optimizer runs between its two halves, on the caller's mesh.
    """

    inner: optax.GradientTransformationExtraArgs
    axes: Axes
    specs: Callable[[Any], SpecTable]
    stored: StoredMoment
    zero_axis: Any
    seed: Any
    step_dtype: Any

    def init(self, params: Any) -> LowRankState:
        tree = MatrixTree(params, self.specs(params))
        placement = Placement(tree, self.axes.projection.whole, self.zero_axis, self._start_state)
        return initialise(
            self._start_state,
            params,
            placement.mesh,
            placement.partitions,
            constrain=placement.splits_further,
        )

    def update(
        self, updates: Any, state: LowRankState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, LowRankState]:
        state = in_own_structure(state, updates, self._start_state)
        tree = MatrixTree(updates, self.specs(updates))
        placement = Placement(tree, self.axes.projection.whole, self.zero_axis, self._start_state)
        halves = Halves(tree.table, placement, self.inner, self.stored, self.step_dtype)
        start = self._inner_state(tree)
        first = run_in_auto(
            halves.before,
            lambda: halves.partitions(tree, state, start, params),
            placement.mesh,
            *(self.axes, updates, state, start, params),
        )
        directions, inner = self._directions(tree, first, extra_args)
        inner = retyped_like(inner, first.inner)
        key = jax.random.fold_in(state.key, state.count)
        steps, residual, inner = run_in_auto(
            halves.after,
            lambda: jax.tree.map(typed_spec, (updates, state.residual, state.inner)),
            placement.mesh,
            *(self.axes, updates, first, directions, inner, key),
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

    def _start_state(self, params: Any) -> LowRankState:
        """The state before the first step, wherever it is."""
        tree = MatrixTree(params, self.specs(params))
        key = as_key(self.seed)
        axes = self.axes

        def basis(i: int) -> Any:
            spec = tree.matrices[i]
            try:
                return axes.projection.init(
                    spec.view, spec.rank, tree.dtype(i), jax.random.fold_in(key, i)
                )
            except ValueError as error:
                raise ValueError(f"{spec.path} of shape {spec.shape}: {error}") from error

        return LowRankState(
            count=jnp.zeros((), jnp.int32),
            key=key,
            schedule=tree.build(lambda i: axes.schedule.init()),
            basis=tree.build(basis),
            inner=self.stored.start(self._inner_state(tree)),
            residual=tree.build(lambda i: axes.residual.init(tree.matrices[i].view, tree.dtype(i))),
        )

    def _inner_state(self, tree: MatrixTree) -> Any:
        """The inner optimizer's state before the first step."""
        zeros = low_rank_zeros(tree, self.axes.projection)
        if self.axes.schedule.by_matrix:
            return tree.build(lambda i: self.inner.init(zeros[i]))
        return self.inner.init(tree.build(zeros.__getitem__))

    def _directions(
        self, tree: MatrixTree, first: FirstHalf, extra_args: dict[str, Any]
    ) -> tuple[Any, Any]:
        """What the inner optimizer makes of the coordinates, and its new state."""
        if not self.axes.schedule.by_matrix:
            return self.inner.update(first.a, first.inner, first.coordinates, **extra_args)
        a, inner = tree.read(first.a), tree.read(first.inner)
        params = dict.fromkeys(a) if first.coordinates is None else tree.read(first.coordinates)
        both = {i: self.inner.update(a[i], inner[i], params[i], **extra_args) for i in a}
        return tree.build(lambda i: both[i][0]), tree.build(lambda i: both[i][1])


def as_key(seed: Any) -> PRNGKeyArray:
    """A random key from a number; a key, of the new or the old kind, is returned as it is."""
    is_key = hasattr(seed, "dtype") and (
        jnp.issubdtype(seed.dtype, jax.dtypes.prng_key) or seed.ndim == 1
    )
    return seed if is_key else jax.random.PRNGKey(seed)

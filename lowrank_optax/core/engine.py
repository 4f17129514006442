"""The engine: one step of any combination of the five axes."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from lowrank_optax.axes import refresh, residuals, transports
from lowrank_optax.axes.projections.base import Moment, Projection
from lowrank_optax.core.matrices import MatrixTree, SpecTable
from lowrank_optax.sharding.placement import Placement
from lowrank_optax.sharding.regions import initialise, run_in_auto
from lowrank_optax.sharding.types import typed_spec

Scale = Any
"""A number, or a function of the matrix's specification (for scales that depend on its shape)."""


class LowRankState(NamedTuple):
    """State of `scale_by_low_rank`; trees are like the parameters, masked where not a matrix."""

    refresh: Any  # the schedule's state: () for every step, else an int32 count or more
    key: Any  # shape (2,), uint32; () when nothing is random
    basis: Any  # per matrix: int32 (*batch, r) of a fixed basis, or (*batch, n, r)
    inner: Any  # the inner optimizer's state for a tree of (*batch, m, r)
    residual: Any  # per matrix: what the residual stores
    side: Any = ()  # under compress="unsharded", per matrix: int8 () for "in", (1,) for "out"


@dataclasses.dataclass(frozen=True)
class Engine:
    """`init` and `update` of `scale_by_low_rank`, which documents what these fields hold."""

    inner: optax.GradientTransformationExtraArgs
    projection: Projection
    schedule: refresh.Refresh
    transport: transports.Transport
    residual: residuals.Residual
    scale: Scale
    specs: Callable[[Any, Any], SpecTable]
    compress: str
    zero_axis: Any
    seed: Any

    @property
    def stochastic(self) -> bool:
        return self.projection.stochastic or self.residual.stochastic

    def init(self, params: Any) -> LowRankState:
        tree = MatrixTree(params, self.specs(params, self.compress))
        placement = Placement(tree, self.projection, self.zero_axis)
        return initialise(
            lambda params: self._init(MatrixTree(params, tree.table)),
            params,
            placement.mesh,
            placement.partitions,
            constrain=placement.splits_further,
        )

    def update(
        self, updates: Any, state: LowRankState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, LowRankState]:
        tree = MatrixTree(updates, self.specs(updates, self._sides(updates, state)))
        placement = Placement(tree, self.projection, self.zero_axis)

        def step(updates: Any, state: Any, params: Any, extra_args: Any) -> tuple[Any, Any]:
            inside = MatrixTree(updates, tree.table)
            coordinates = None if params is None else MatrixTree(params, tree.table)
            return self._step(inside, placement, state, coordinates, extra_args)

        partitions = jax.tree.map(typed_spec, (updates, state))
        return run_in_auto(step, partitions, placement.mesh, updates, state, params, extra_args)

    def _init(self, tree: MatrixTree) -> LowRankState:
        key = jax.random.PRNGKey(self.seed) if self.stochastic else None
        mark = lambda spec: jnp.zeros((1,) if spec.side == "out" else (), jnp.int8)
        return LowRankState(
            refresh=self.schedule.init(),
            key=() if key is None else key,
            basis=tree.build(lambda i: self.projection.init(*tree.typed(i), _fold(key, i))),
            inner=self.inner.init(self._zeros(tree)),
            residual=tree.build(lambda i: self.residual.init(*tree.typed(i))),
            side=tree.build(lambda i: mark(tree.matrices[i]))
            if self.compress == "unsharded"
            else (),
        )

    def _sides(self, updates: Any, state: LowRankState) -> Any:
        """What to compress: as given, or for "unsharded" as the state's shapes remember.

        Gradients under `jax.jit` do not tell how they are sharded.
        """
        if self.compress != "unsharded":
            return self.compress
        treedef: Any = jax.tree.structure(updates)
        marks = treedef.flatten_up_to(state.side)
        shape = lambda mark: None if isinstance(mark, optax.MaskedNode) else mark.shape
        return [{(): "in", (1,): "out", None: None}[shape(mark)] for mark in marks]

    def _step(
        self,
        tree: MatrixTree,
        placement: Placement,
        state: LowRankState,
        params: MatrixTree | None,
        extra_args: dict[str, Any],
    ) -> tuple[Any, LowRankState]:
        previous, stored = tree.read(state.basis), tree.read(state.residual)
        key, step_key = (None, None) if not self.stochastic else jax.random.split(state.key)

        G = {i: placement.to_parameter(i, tree.matrix(i)) for i in tree.matrices}
        A = {i: self._accumulate(placement.to_work(i, G[i]), stored[i]) for i in G}
        due = self.schedule.every_step or self.schedule.due(state.refresh)
        bases, transported = self._refresh(A, previous, state.inner, tree, step_key, due)
        a = {i: placement.low_rank(i, self.projection.project(A[i], bases[i])) for i in A}
        directions, inner_state = self.inner.update(
            tree.build(lambda i: a[i].astype(tree.leaves[i].dtype)),
            transported,
            self._coordinates(params, bases),
            **extra_args,
        )
        u = {i: d.astype(A[i].dtype) for i, d in tree.read(directions).items()}
        losses = self._moment_losses(A, state.inner, transported, previous, bases, tree)
        steps = {}
        for i, spec in tree.matrices.items():
            scale = self.scale(spec) if callable(self.scale) else self.scale
            direction = placement.gather(i, u[i])
            # A residual with a matrix in its state works where that is; one that only shapes the
            # step works where the step is needed. What is gathered is low-rank either way.
            near = self.residual.stores_matrix or not placement.splits_further
            whole = A[i] if near else self._whole(placement, i, G[i], stored[i])
            step = residuals.Step(
                projection=self.projection,
                basis=bases[i],
                A=whole,
                a=a[i] if near else placement.gather(i, a[i]),
                direction=direction,
                u=direction * jnp.asarray(scale, A[i].dtype),
                key=_fold(step_key, 2 * i + 1),
                moment_loss=losses.get(i),
            )
            stepped, stored[i] = self.residual.finish(step, stored[i])
            steps[i] = placement.to_parameter(i, stepped)
        settled = {i: self.projection.settle(bases[i], A[i], a[i], u[i], due) for i in bases}
        new_state = LowRankState(
            refresh=self.schedule.advance(state.refresh, due, self._overlap(previous, bases)),
            key=() if key is None else key,
            basis=tree.build(settled.__getitem__),
            inner=inner_state,
            residual=tree.build(stored.__getitem__),
            side=state.side,
        )
        return tree.replace(steps), placement.settle(new_state)

    def _zeros(self, tree: MatrixTree) -> Any:
        """What the inner optimizer is initialised with."""
        return tree.build(
            lambda i: jnp.zeros(
                self.projection.low_rank_shape(tree.matrices[i]), tree.leaves[i].dtype
            )
        )

    def _accumulate(self, G: Float[Array, "*batch m n"], stored: Any) -> Array:
        computing = jnp.promote_types(G.dtype, jnp.float32)
        return self.residual.accumulate(self.projection.analyze(G.astype(computing)), stored)

    def _whole(self, placement: Placement, i: int, G: Array, stored: Any) -> Array:
        """A where the parameter is: computed there, as it would otherwise be gathered."""
        return placement.to_parameter(i, self._accumulate(G, stored))

    def _coordinates(self, params: MatrixTree | None, bases: dict[int, Any]) -> Any:
        """The parameters in the subspace; compiled away unless the inner optimizer reads them."""
        if params is None:
            return None
        return params.build(
            lambda i: self.projection.project(
                self.projection.analyze(params.matrix(i)), bases[i]
            ).astype(params.leaves[i].dtype)
        )

    def _refresh(
        self,
        A: dict[int, Array],
        bases: dict[int, Any],
        inner_state: Any,
        tree: MatrixTree,
        key: Any,
        due: Any,
    ) -> tuple[dict[int, Any], Any]:
        """New bases and the transported inner state, where it is time for them."""

        def choose() -> tuple[dict[int, Any], Any]:
            moments = self._moments(inner_state, tree) if self.projection.uses_moment else {}
            new = {
                i: self.projection.refresh(
                    A[i], bases[i], spec.rank, _fold(key, 2 * i), moments.get(i)
                )
                for i, spec in tree.matrices.items()
            }
            change = transports.Change(
                inner=self.inner,
                state=inner_state,
                template=self._zeros(tree),
                previous=tree.build(bases.__getitem__),
                current=tree.build(new.__getitem__),
                projection=self.projection,
            )
            return new, self.transport(change)

        if self.schedule.every_step:
            return choose()
        # One scalar predicate outside every batch: under a vmap it would become a select, and the
        # factorisation would run at every step.
        return jax.lax.cond(due, choose, lambda: (bases, inner_state))

    def _moments(self, inner_state: Any, tree: MatrixTree) -> dict[int, Moment]:
        mu = tree.read(optax.tree_utils.tree_get(inner_state, "mu"))
        count = optax.tree_utils.tree_get(inner_state, "count")
        return {i: Moment(mu[i], count) for i in tree.matrices}

    def _moment_losses(
        self,
        A: dict[int, Array],
        before: Any,
        after: Any,
        previous: dict[int, Any],
        bases: dict[int, Any],
        tree: MatrixTree,
    ) -> dict[int, Array]:
        """m Pᵀ_previous − n Pᵀ for residuals that make up for what the transport lost."""
        if not self.residual.uses_moment:
            return {}
        old, new = self._moments(before, tree), self._moments(after, tree)
        embed = self.projection.embed
        return {
            i: embed(old[i].mu.astype(A[i].dtype), previous[i], A[i].shape[-2:])
            - embed(new[i].mu.astype(A[i].dtype), bases[i], A[i].shape[-2:])
            for i in tree.matrices
        }

    def _overlap(self, previous: dict[int, Any], bases: dict[int, Any]) -> Array | None:
        if not self.schedule.uses_overlap:
            return None
        overlaps = [jnp.min(self.projection.overlap(previous[i], bases[i])) for i in bases]
        return jnp.min(jnp.stack(overlaps)) if overlaps else jnp.zeros(())


def _fold(key: PRNGKeyArray | None, i: int) -> Array | None:
    return None if key is None else jax.random.fold_in(key, i)

"""The engine: any inner optimizer inside any subspace, with the five axes as its arguments."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from lowrank_optax import refresh, residuals, transports
from lowrank_optax.compatibility import check
from lowrank_optax.dimension_numbers import DimensionNumbers
from lowrank_optax.groups import grouped
from lowrank_optax.matrices import MatrixTree, SpecTable, matrix_specs
from lowrank_optax.projections.base import Moment, Projection

Scale = Any
"""A number, or a function of the matrix's specification (for scales that depend on its shape)."""


class LowRankState(NamedTuple):
    """State of `scale_by_low_rank`; trees are like the parameters, masked where not a matrix."""

    refresh: Any  # the schedule's state: () for every step, else an int32 count or more
    key: Any  # shape (2,), uint32; () when nothing is random
    basis: Any  # per matrix: int32 (*batch, r) of a fixed basis, or (*batch, n, r)
    inner: Any  # the inner optimizer's state for a tree of (*batch, m, r)
    residual: Any  # per matrix: what the residual stores


def scale_by_low_rank(
    inner: optax.GradientTransformation,
    projection: Projection,
    *,
    update_interval: refresh.UpdateInterval = 1,
    stagger: bool = False,
    transport: str | transports.Transport = "keep",
    residual: residuals.Residual | None = None,
    scale: Scale = 1.0,
    dimension_numbers: DimensionNumbers = None,
    compress: str = "smallest",
    seed: Any = 0,
) -> optax.GradientTransformationExtraArgs:
    """Run `inner` on the coordinates of the gradient in an r-dimensional subspace.

    For every matrix leaf: A = G + what the residual stored; every `update_interval` steps the
    subspace P is chosen for A and the inner optimizer's state is transported; a = A P;
    u = scale · inner(a); the step is u Pᵀ plus what the residual makes of A − a Pᵀ.
    Leaves that are not matrices pass through unchanged.

    Args:
      inner: any optax transformation; it sees a tree of arrays (*batch, m, r) in the leaves' dtype,
        and as parameters their coordinates in the subspace.
      projection: from `projections`.
      update_interval: T to choose the subspace where count % T == 0, counting from 0; or a
        function of the int32 count that returns a boolean, which must be true at count 0; or a
        schedule such as `refresh.adaptive()`.
      stagger: spread the leaves' refreshes evenly over the T steps (the first one excepted), so
        that no step pays for all of them. The state is then a tuple, one `LowRankState` per group.
      transport: "keep", "reset", "rotate", "rotate_first", "rotate_moments", or a `Transport`.
      residual: from `residuals`; None discards.
      scale: factor of u; a number or a function of the `MatrixSpec`.
      dimension_numbers: which leaves are matrices, as for `matrix_specs`.
      compress: which side to compress, as for `matrix_specs`.
      seed: of the random key in the state, if any part is random.

    Returns:
      A transformation whose state is a `LowRankState`.

    Raises:
      TypeError, ValueError: naming the argument, or the parameter with its shape, and the remedy.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import lowrank_optax as lro
      >>> tx = optax.chain(
      ...     lro.scale_by_low_rank(optax.scale_by_adam(), lro.projections.dct(rank=2)),
      ...     optax.scale_by_learning_rate(1e-2),
      ... )
      >>> params = {"w": jnp.ones((4, 8)), "b": jnp.ones(8)}
      >>> state = tx.init(params)
      >>> state[0].basis["w"].shape, state[0].inner.mu["w"].shape
      ((2,), (8, 2))
      >>> updates, state = tx.update(params, state)
      >>> updates["w"].shape
      (4, 8)
    """
    schedule = refresh.resolve(update_interval, stagger)
    engine = _Engine(
        inner=optax.with_extra_args_support(inner),
        projection=projection,
        schedule=schedule,
        transport=transports.resolve(transport),
        residual=residual or residuals.discard(),
        scale=scale,
        specs=lambda tree: matrix_specs(
            tree,
            projection.rank,
            dimension_numbers=dimension_numbers,
            compress=compress,
            partial=_has_masked(tree),
        ),
        seed=seed,
    )
    check(inner, projection, schedule, engine.transport, engine.residual)
    if not schedule.grouped:
        return optax.GradientTransformationExtraArgs(engine.init, engine.update)

    def make(group: int, groups: int) -> optax.GradientTransformationExtraArgs:
        mine = dataclasses.replace(engine, schedule=schedule.for_group(group, groups))
        return optax.GradientTransformationExtraArgs(mine.init, mine.update)

    return grouped(make, engine.specs, schedule.groups)


def _has_masked(tree: Any) -> bool:
    is_masked = lambda node: isinstance(node, optax.MaskedNode)
    return any(map(is_masked, jax.tree.leaves(tree, is_leaf=is_masked)))


@dataclasses.dataclass(frozen=True)
class _Engine:
    inner: optax.GradientTransformationExtraArgs
    projection: Projection
    schedule: refresh.Refresh
    transport: transports.Transport
    residual: residuals.Residual
    scale: Scale
    specs: Callable[[Any], SpecTable]
    seed: Any

    @property
    def stochastic(self) -> bool:
        return self.projection.stochastic or self.residual.stochastic

    def init(self, params: Any) -> LowRankState:
        tree = MatrixTree(params, self.specs(params))
        key = jax.random.PRNGKey(self.seed) if self.stochastic else None
        return LowRankState(
            refresh=self.schedule.init(),
            key=() if key is None else key,
            basis=tree.build(lambda i: self.projection.init(*tree.typed(i), _fold(key, i))),
            inner=self.inner.init(self._zeros(tree)),
            residual=tree.build(lambda i: self.residual.init(*tree.typed(i))),
        )

    def update(
        self, updates: Any, state: LowRankState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, LowRankState]:
        tree = MatrixTree(updates, self.specs(updates))
        previous, stored = tree.read(state.basis), tree.read(state.residual)
        key, step_key = (None, None) if not self.stochastic else jax.random.split(state.key)

        A = {i: self._accumulate(tree.matrix(i), stored[i]) for i in tree.matrices}
        due = self.schedule.every_step or self.schedule.due(state.refresh)
        bases, transported = self._refresh(A, previous, state.inner, tree, step_key, due)
        a = {i: self.projection.project(A[i], bases[i]) for i in tree.matrices}
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
            step = residuals.Step(
                projection=self.projection,
                basis=bases[i],
                A=A[i],
                a=a[i],
                direction=u[i],
                u=u[i] * jnp.asarray(scale, A[i].dtype),
                key=_fold(step_key, 2 * i + 1),
                moment_loss=losses.get(i),
            )
            steps[i], stored[i] = self.residual.finish(step, stored[i])
        settled = {i: self.projection.settle(bases[i], A[i], a[i], u[i], due) for i in bases}
        new_state = LowRankState(
            refresh=self.schedule.advance(state.refresh, due, self._overlap(previous, bases)),
            key=() if key is None else key,
            basis=tree.build(settled.__getitem__),
            inner=inner_state,
            residual=tree.build(stored.__getitem__),
        )
        return tree.replace(steps), new_state

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

    def _coordinates(self, params: Any, bases: dict[int, Any]) -> Any:
        """The parameters in the subspace; compiled away unless the inner optimizer reads them."""
        if params is None:
            return None
        tree = MatrixTree(params, self.specs(params))
        return tree.build(
            lambda i: self.projection.project(
                self.projection.analyze(tree.matrix(i)), bases[i]
            ).astype(tree.leaves[i].dtype)
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

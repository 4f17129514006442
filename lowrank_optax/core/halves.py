"""One step of the engine before and after the inner optimizer, for all matrices of a tree."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lowrank_optax.axes import residuals, transports
from lowrank_optax.axes.moments import first_moment, only
from lowrank_optax.axes.projections.base import Choice, Moment, Projection, Subspace, Transition
from lowrank_optax.core.axes import LowRankState, Parts
from lowrank_optax.core.matrices import MatrixSpec, MatrixTree
from lowrank_optax.core.order import once
from lowrank_optax.linalg.devices import typed_spec
from lowrank_optax.linalg.precision import step_operands, wide_dtype
from lowrank_optax.sharding.placement import Placement

Leaves = dict[int, Any]
"""A value for every matrix, by the position of its leaf."""


class FirstHalf(NamedTuple):
    """What the first half of a step hands over; trees and dictionaries of the matrices."""

    A: Leaves  # what was projected, in the domain
    a: Any  # its coordinates
    coordinates: Any  # the parameters' coordinates, or None
    used: Any  # the bases of this step
    settled: Any  # the bases to remember
    inner: Any  # the transported state of the inner optimizer
    residual: Any
    schedule: Any
    key: Any  # of this step


@dataclasses.dataclass(frozen=True)
class Halves:
    """The step before and after the inner optimizer."""

    placement: Placement
    step_dtype: Any

    def before(
        self, parts: Parts, updates: Any, state: LowRankState, start: Any, params: Any
    ) -> FirstHalf:
        """From gradients to coordinates in the subspace, and all state but the inner one."""
        tree = self.placement.tree.of(updates)
        projection, residual, schedule = parts.projection, parts.residual, parts.schedule
        previous, stored = tree.read(state.basis), tree.read(state.residual)
        remembered = tree.read(state.schedule)
        key = jax.random.fold_in(state.key, state.count)
        inner = parts.stored.widen(start, state.inner, updates)
        moments = self._moments(tree, inner, updates, schedule.by_matrix)
        A, a, due, bases, settled = {}, {}, {}, {}, {}
        old: dict[int, Subspace] = {}
        new: dict[int, Subspace] = {}
        changes: dict[int, Transition] = {}
        done: Any = None
        for position, (i, spec) in enumerate(tree.matrices.items()):
            G = self.placement.to_work(i, once(done, tree.matrix(i), self.placement.mesh))
            S = projection.analyze(G, wide_dtype(tree.dtype(i)))
            old[i] = projection.subspace(previous[i], spec.view)
            _check_rank(projection, spec, old[i], S)
            A[i] = residual.accumulate(S, stored[i], old[i])
            due[i] = schedule.due(state.count, remembered[i], position, len(tree.matrices))
            choice = Choice(
                A=A[i],
                basis=previous[i],
                rank=spec.rank,
                key=jax.random.fold_in(key, 2 * i),
                count=state.count,
                moment=moments.get(i),
            )
            bases[i] = _refresh(projection, choice, due[i])
            new[i] = projection.subspace(bases[i], spec.view)
            changes[i] = new[i].since(old[i])
            a[i] = self.placement.low_rank(i, new[i].project(residual.ahead(A[i], S)))
            m = moments[i].mu if i in moments else None
            projected = residuals.Projected(
                subspace=new[i],
                A=A[i],
                a=a[i],
                key=jax.random.fold_in(key, 2 * i + 1),
                previous=old[i],
                m=m,
                moved=None if m is None else _moved(parts.transport, changes[i], m, due[i]),
            )
            stored[i] = residual.keep(projected, stored[i])
            settled[i] = projection.settle(bases[i], A[i], a[i], due[i])
            remembered[i] = schedule.advance(remembered[i], state.count, due[i], changes[i])
            done = stored[i], a[i]
        inner = self._transported(parts, tree, inner, start, changes, due)
        return FirstHalf(
            A=A,
            a=tree.build(a.__getitem__),
            coordinates=self._coordinates(projection, params, new),
            used=tree.build(bases.__getitem__),
            settled=tree.build(settled.__getitem__),
            inner=inner,
            residual=tree.build(stored.__getitem__),
            schedule=tree.build(remembered.__getitem__),
            key=key,
        )

    def after(
        self, parts: Parts, updates: Any, first: FirstHalf, directions: Any, inner: Any
    ) -> tuple[Any, Any, Any]:
        """From the inner optimizer's directions to steps in weight space, and what is stored."""
        tree = self.placement.tree.of(updates)
        used, a, u = tree.read(first.used), tree.read(first.a), tree.read(directions)
        stored, steps = tree.read(first.residual), {}
        projection, further = parts.projection, self.placement.splits_further
        done: Any = None
        for i, spec in tree.matrices.items():
            scale = parts.scale(spec) if callable(parts.scale) else parts.scale
            direction = once(done, u[i], self.placement.mesh).astype(first.A[i].dtype)
            direction = self.placement.gather(i, direction)
            # A residual that stores nothing works where the step is needed, so that what is
            # gathered is low-rank; one that does has no use for A any more.
            step = residuals.Step(
                projection=projection,
                subspace=projection.subspace(used[i], spec.view, step_operands(tree.dtype(i))),
                A=self._at_parameter(projection, tree, i) if further else first.A[i],
                a=self.placement.gather(i, a[i]) if further else a[i],
                direction=direction,
                scale=scale,
            )
            stepped, stored[i] = parts.residual.finish(step, stored[i])
            done = stepped
            dtype = jnp.promote_types(tree.dtype(i), self.step_dtype or tree.dtype(i))
            steps[i] = self.placement.to_parameter(i, stepped.astype(dtype))
        kept = parts.stored.narrow(inner, updates, first.key)
        return tree.replace(steps), tree.build(stored.__getitem__), kept

    def partitions(self, parts: Parts, state: LowRankState, start: Any, params: Any) -> FirstHalf:
        """Where the results of the first half are, for mesh axes that are `Explicit`."""
        tree = self.placement.tree
        typed = lambda node: jax.tree.map(typed_spec, node)
        low_rank = tree.build(self.placement.low_rank_partition)
        return FirstHalf(
            A={i: self.placement.work[i].matrix() for i in tree.matrices},
            a=low_rank,
            coordinates=None if params is None else low_rank,
            used=typed(state.basis),
            settled=typed(state.basis),
            inner=parts.stored.of_codes(start, typed(state.inner)),
            residual=typed(state.residual),
            schedule=typed(state.schedule),
            key=typed_spec(state.key),
        )

    def _transported(
        self,
        parts: Parts,
        tree: MatrixTree,
        state: Any,
        start: Any,
        changes: Leaves,
        due: Leaves,
    ) -> Any:
        """The inner optimizer's state for the new subspaces."""
        if not changes:
            return state
        zeros = low_rank_zeros(tree, parts.projection)
        trees = state, start, zeros, tree.build(changes.__getitem__)

        def moved(due: Any, *nodes: Any) -> Any:
            return parts.transport.where(due, transports.Change(parts.inner, *nodes))

        if not parts.schedule.by_matrix:
            return moved(next(iter(due.values())), *trees)
        nodes = [tree.read(each) for each in trees]
        return tree.build(lambda i: moved(due[i], *(node[i] for node in nodes)))

    def _moments(
        self, tree: MatrixTree, state: Any, updates: Any, by_matrix: bool
    ) -> dict[int, Moment]:
        """The first moments in an inner state, if it has them, and its count, if it has one."""
        if by_matrix:
            found = {i: (first_moment(own), own) for i, own in tree.read(state).items()}
        else:
            mu = first_moment(state, updates)
            found = {} if mu is None else {i: (m, state) for i, m in tree.read(mu).items()}
        return {
            i: Moment(m, only(own, "count", updates))
            for i, (m, own) in found.items()
            if m is not None
        }

    def _coordinates(self, projection: Projection, params: Any, new: dict[int, Subspace]) -> Any:
        """The parameters in the subspace; compiled away unless the inner optimizer reads them."""
        if params is None:
            return None
        tree = self.placement.tree.of(params)

        def project(i: int) -> Array:
            W = self.placement.to_work(i, tree.matrix(i))
            return new[i].project(projection.analyze(W, wide_dtype(tree.dtype(i))))

        return tree.build(project)

    def _at_parameter(self, projection: Projection, tree: MatrixTree, i: int) -> Array:
        G = self.placement.to_parameter(i, tree.matrix(i))
        return projection.analyze(G, wide_dtype(tree.dtype(i)))


def low_rank_zeros(tree: MatrixTree, projection: Projection) -> Any:
    """What the inner optimizer is initialised with: at least float32, whatever the leaves are."""

    def zeros(i: int) -> Array:
        spec = tree.matrices[i]
        return jnp.zeros(projection.low_rank_shape(spec.view, spec.rank), wide_dtype(tree.dtype(i)))

    return tree.build(zeros)


def _check_rank(projection: Projection, spec: MatrixSpec, old: Subspace, S: Array) -> None:
    """Raise where the state's subspace is of another rank, with which some methods could go on."""
    found = jax.eval_shape(old.project, S).shape
    if found != projection.low_rank_shape(spec.view, spec.rank):
        raise ValueError(f"{spec.path}: its subspace is not of rank {spec.rank}.")


def _refresh(projection: Projection, choice: Choice, due: Any) -> Any:
    """A new basis, where it is time for one."""
    if due is True:
        return projection.refresh(choice)
    # One scalar predicate outside every batch: under a vmap it would become a select, and the
    # factorisation would run at every step.
    return jax.lax.cond(due, lambda: projection.refresh(choice), lambda: choice.basis)


def _moved(transport: transports.Transport, change: Transition, m: Array, due: Any) -> Array:
    """The first moment after a step's transport, which there is at a refresh only."""
    moved = transport.first_moment(change, m)
    return moved if due is True else jnp.where(due, moved, m)

"""The engine: any inner optimizer inside any subspace, with the five axes as its arguments."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from lowrank_optax import residuals, transports
from lowrank_optax.dimension_numbers import DimensionNumbers
from lowrank_optax.matrices import MatrixSpec, SpecTable, matrix_specs
from lowrank_optax.projections.base import Projection

UpdateInterval = int | Callable[[Array], Array]
Scale = Any
"""A number, or a function of the matrix's specification (for scales that depend on its shape)."""


class LowRankState(NamedTuple):
    """State of `scale_by_low_rank`; trees are like the parameters, masked where not a matrix."""

    count: Any  # shape (), int32; () when the subspace changes at every step
    key: Any  # shape (2,), uint32; () when nothing is random
    basis: Any  # per matrix: int32 (*batch, r) of a fixed basis, or (*batch, n, r)
    inner: Any  # the inner optimizer's state for a tree of (*batch, m, r)
    residual: Any  # per matrix: what the residual stores


def scale_by_low_rank(
    inner: optax.GradientTransformation,
    projection: Projection,
    *,
    update_interval: UpdateInterval = 1,
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
        function of the int32 count that returns a boolean, which must be true at count 0.
      transport: "keep", "reset" or "rotate", or a function as in `transports`.
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
    engine = _Engine(
        inner=optax.with_extra_args_support(inner),
        projection=projection,
        refresh_at=_refresh_predicate(update_interval),
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
    return optax.GradientTransformationExtraArgs(engine.init, engine.update)


def _refresh_predicate(update_interval: UpdateInterval) -> Callable[[Array], Array] | None:
    """A function of the count, or None for every step."""
    if callable(update_interval):
        return update_interval
    if isinstance(update_interval, int) and not isinstance(update_interval, bool):
        if update_interval < 1:
            raise ValueError(f"update_interval={update_interval} must be at least 1.")
        return None if update_interval == 1 else lambda count: count % update_interval == 0
    if isinstance(update_interval, jax.Array):  # under optax.inject_hyperparams
        return lambda count: count % update_interval == 0
    raise TypeError(
        f"update_interval={update_interval!r} must be an int or a function count -> bool."
    )


def _has_masked(tree: Any) -> bool:
    is_masked = lambda node: isinstance(node, optax.MaskedNode)
    return any(map(is_masked, jax.tree.leaves(tree, is_leaf=is_masked)))


@dataclasses.dataclass(frozen=True)
class _Engine:
    inner: optax.GradientTransformationExtraArgs
    projection: Projection
    refresh_at: Callable[[Array], Array] | None
    transport: transports.Transport
    residual: residuals.Residual
    scale: Scale
    specs: Callable[[Any], SpecTable]
    seed: Any

    @property
    def stochastic(self) -> bool:
        return self.projection.stochastic or self.residual.stochastic

    def init(self, params: Any) -> LowRankState:
        tree = _MatrixTree(params, self.specs(params))
        key = jax.random.PRNGKey(self.seed) if self.stochastic else None
        return LowRankState(
            count=jnp.zeros((), jnp.int32) if self.refresh_at else (),
            key=() if key is None else key,
            basis=tree.build(lambda i: self.projection.init(*tree.typed(i), _fold(key, i))),
            inner=self.inner.init(tree.build(tree.zeros)),
            residual=tree.build(lambda i: self.residual.init(*tree.typed(i))),
        )

    def update(
        self, updates: Any, state: LowRankState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, LowRankState]:
        tree = _MatrixTree(updates, self.specs(updates))
        bases, stored = tree.read(state.basis), tree.read(state.residual)
        key, step_key = (None, None) if not self.stochastic else jax.random.split(state.key)

        A = {i: self._accumulate(tree.matrix(i), stored[i]) for i in tree.matrices}
        bases, inner_state = self._refresh(A, bases, state, tree, step_key)
        a = {i: self.projection.project(A[i], bases[i]) for i in tree.matrices}
        directions, inner_state = self.inner.update(
            tree.build(lambda i: a[i].astype(tree.leaves[i].dtype)),
            inner_state,
            self._coordinates(params, bases),
            **extra_args,
        )
        u = tree.read(directions)
        steps = {}
        for i, spec in tree.matrices.items():
            scale = self.scale(spec) if callable(self.scale) else self.scale
            steps[i], stored[i] = self.residual.finish(
                residuals.Step(
                    projection=self.projection,
                    basis=bases[i],
                    A=A[i],
                    a=a[i],
                    u=u[i].astype(A[i].dtype) * jnp.asarray(scale, A[i].dtype),
                    key=_fold(step_key, 2 * i + 1),
                ),
                stored[i],
            )
        new_state = LowRankState(
            count=optax.safe_increment(state.count) if self.refresh_at else (),
            key=() if key is None else key,
            basis=tree.build(bases.__getitem__),
            inner=inner_state,
            residual=tree.build(stored.__getitem__),
        )
        return tree.replace(steps), new_state

    def _accumulate(self, G: Float[Array, "*batch m n"], stored: Any) -> Array:
        computing = jnp.promote_types(G.dtype, jnp.float32)
        return self.residual.accumulate(self.projection.analyze(G.astype(computing)), stored)

    def _coordinates(self, params: Any, bases: dict[int, Any]) -> Any:
        """The parameters in the subspace; compiled away unless the inner optimizer reads them."""
        if params is None:
            return None
        tree = _MatrixTree(params, self.specs(params))
        return tree.build(
            lambda i: self.projection.project(
                self.projection.analyze(tree.matrix(i)), bases[i]
            ).astype(tree.leaves[i].dtype)
        )

    def _refresh(
        self, A: dict[int, Array], bases: dict[int, Any], state: LowRankState, tree: Any, key: Any
    ) -> tuple[dict[int, Any], Any]:
        """New bases and the transported inner state, where it is time for them."""

        def choose() -> tuple[dict[int, Any], Any]:
            new = {
                i: self.projection.refresh(A[i], bases[i], spec.rank, _fold(key, 2 * i))
                for i, spec in tree.matrices.items()
            }
            inner_state = self.transport(
                self.inner,
                state.inner,
                tree.build(tree.zeros),
                tree.build(bases.__getitem__),
                tree.build(new.__getitem__),
                self.projection.carry,
            )
            return new, inner_state

        if self.refresh_at is None:
            return choose()
        # One scalar predicate outside every batch: under a vmap it would become a select, and the
        # factorisation would run at every step.
        return jax.lax.cond(self.refresh_at(state.count), choose, lambda: (bases, state.inner))


class _MatrixTree:
    """A pytree's leaves with their specifications; builds and reads trees of the same structure."""

    def __init__(self, tree: Any, table: SpecTable):
        self.leaves, treedef = jax.tree.flatten(tree)
        self.treedef: Any = treedef
        self.matrices = {i: spec for i, spec in enumerate(table) if spec is not None}

    def matrix(self, i: int) -> Float[Array, "*batch m n"]:
        return self.matrices[i].to_matrix(self.leaves[i])

    def typed(self, i: int) -> tuple[MatrixSpec, Any]:
        return self.matrices[i], self.leaves[i].dtype

    def zeros(self, i: int) -> Float[Array, "*batch m r"]:
        spec = self.matrices[i]
        return jnp.zeros((*spec.batch, spec.m, spec.rank), self.leaves[i].dtype)

    def build(self, value: Callable[[int], Any]) -> Any:
        """A tree of `value(i)` at matrices, masked elsewhere."""
        return self.treedef.unflatten(
            value(i) if i in self.matrices else optax.MaskedNode() for i in range(len(self.leaves))
        )

    def read(self, tree: Any) -> dict[int, Any]:
        """The inverse of `build`."""
        nodes = self.treedef.flatten_up_to(tree)
        return {i: nodes[i] for i in self.matrices}

    def replace(self, steps: dict[int, Float[Array, "*batch m n"]]) -> Any:
        """The tree with its matrices replaced, in their own shape and dtype."""
        leaves = list(self.leaves)
        for i, step in steps.items():
            leaves[i] = self.matrices[i].from_matrix(step.astype(leaves[i].dtype))
        return self.treedef.unflatten(leaves)


def _fold(key: PRNGKeyArray | None, i: int) -> Array | None:
    return None if key is None else jax.random.fold_in(key, i)

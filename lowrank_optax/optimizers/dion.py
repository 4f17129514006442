"""Dion."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from lowrank_optax.axes._value import axis_value
from lowrank_optax.core.axes import LowRankState
from lowrank_optax.core.dimension_numbers import DimensionNumbers
from lowrank_optax.core.engine import as_key
from lowrank_optax.core.matrices import MatrixSpec, MatrixTree, matrix_specs
from lowrank_optax.core.missing import without_none
from lowrank_optax.core.order import once
from lowrank_optax.core.spec_table import SpecTable
from lowrank_optax.core.trees import blaming_the_state, in_own_structure
from lowrank_optax.linalg.arguments import check_fraction, refuse_renamed
from lowrank_optax.linalg.devices import mean_over, typed_spec
from lowrank_optax.linalg.orthogonalize import METHODS, keep_finite, orthonormal_columns
from lowrank_optax.linalg.precision import wide_dtype
from lowrank_optax.linalg.products import product
from lowrank_optax.linalg.storage import Storage
from lowrank_optax.linalg.storage import storage as as_storage
from lowrank_optax.optimizers._build import Recipe, arguments_of, optimizer
from lowrank_optax.optimizers._shape_scale import step_scale
from lowrank_optax.sharding.placement import Placement
from lowrank_optax.sharding.regions import run_in_auto
from lowrank_optax.sharding.synchronise import resolve_sync


@refuse_renamed
def scale_by_dion(
    rank: int | float = 128,
    *,
    momentum: Any = 0.95,
    power_iters: Any = 1,
    eps: Any = 1e-8,
    nesterov: bool = False,
    orthogonalize: str = "qr",
    shape_scale: str = "dion",
    rank_scale: str = "none",
    mu_dtype: Any = None,
    sync: str | None = None,
    sync_axis: str = "data",
    dimension_numbers: DimensionNumbers = None,
    compress: Any = "smallest",
    zero_axis: Any = None,
    seed: Any = 0,
    step_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Orthonormalised low-rank momentum by a warm-started power iteration.

    With matrices (n, m), the compressed axis first: M ← M + G; P = orth(Mᵀ Q); R = M P;
    M ← M − (1 − μ) R Pᵀ; Q ← R with columns of unit length; the step is scale · Q Pᵀ.

    Args:
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      momentum: μ, the decay of the part of the momentum that was applied.
      power_iters: power iterations per step.
      eps: added to the length of R's columns.
      nesterov: take the step's factors from μ M + G in place of M.
      orthogonalize: "qr"; "cholesky_qr", which with m sharded moves r² numbers only, but takes no
        step, and decays nothing, while M's rank is below r; or "auto", which is "qr" on CPUs, and
        elsewhere "cholesky_qr" with "qr" for such an M.
      shape_scale, rank_scale: as for `scale_by_trion`.
      mu_dtype: what the momentum is stored in, as for `scale_by_low_rank`; None for the
        parameters', but at least float32. Where n is split over devices, fewer than 8 bits are
        not.
      sync: "low_rank" to be called inside `jax.shard_map` with every device's own gradient: the
        devices average Mᵀ Q (m × r) and M P (n × r), and each keeps its own M (see
        `local_state_specs`); None for gradients that come averaged.
      sync_axis: axis of `jax.shard_map` that "low_rank" averages over.
      dimension_numbers, compress, zero_axis, step_dtype: as for `scale_by_low_rank`.
      seed: of the normal draw from which Q starts; a number or a key.

    Returns:
      A transformation whose state is a `LowRankState` that holds, per matrix, M (n, m) as
      `residual` and Q (n, r) as `basis`, and no inner state.

    Raises:
      TypeError, ValueError: naming the argument, or the parameter with its shape.

    Reference:
      arXiv 2504.05295, algorithm 1.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import lowrank_optax as lro
      >>> tx = optax.chain(lro.scale_by_dion(rank=2), optax.scale_by_learning_rate(0.02))
      >>> params = {"w": jnp.ones((4, 8))}
      >>> updates, state = tx.update(params, tx.init(params))
      >>> state[0].basis["w"].shape
      (4, 2)
    """
    check_fraction("momentum", momentum)
    if isinstance(power_iters, float) or (isinstance(power_iters, int) and power_iters < 1):
        raise ValueError(f"power_iters={power_iters} must be an int of at least 1.")
    if orthogonalize not in METHODS:
        raise ValueError(f"orthogonalize={orthogonalize!r} is unknown; use one of {METHODS}.")
    dion = Dion(
        momentum=momentum,
        power_iters=power_iters,
        eps=eps,
        nesterov=nesterov,
        orthogonalize=orthogonalize,
        sync_axis=resolve_sync(sync, sync_axis),
        stored=as_storage(mu_dtype),
        scale=step_scale(shape_scale, rank_scale),
        specs=lambda tree: matrix_specs(
            tree, rank, dimension_numbers=dimension_numbers, compress=compress
        ),
        zero_axis=zero_axis,
        seed=seed,
        step_dtype=step_dtype,
    )
    return without_none(optax.GradientTransformationExtraArgs(dion.init, dion.update))


@axis_value("momentum", "power_iters", "eps", "seed")
class Dion:
    """`init` and `update` of `scale_by_dion`, which documents what these fields hold."""

    momentum: Any
    power_iters: Any
    eps: Any
    nesterov: bool
    orthogonalize: str
    sync_axis: str | None
    stored: Storage
    scale: Callable[[MatrixSpec], float]
    specs: Callable[[Any], SpecTable]
    zero_axis: Any
    seed: Any
    step_dtype: Any

    def init(self, params: Any) -> LowRankState:
        return self._placement(params).initial_state(params)

    def update(
        self, updates: Any, state: LowRankState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, LowRankState]:
        del params, extra_args
        with blaming_the_state(state, updates, self._start_state):
            return self._update(updates, in_own_structure(state, updates, self._start_state))

    def _update(self, updates: Any, state: LowRankState) -> tuple[Any, LowRankState]:
        placement = self._placement(updates)

        def step(dion: Dion, updates: Any, basis: Any, residual: Any, key: Any) -> Any:
            tree = placement.tree.of(updates)
            Q, M, steps = tree.read(basis), tree.read(residual), {}
            done: Any = None
            for i, spec in tree.matrices.items():
                if Q[i].shape[-1] != spec.rank:
                    raise ValueError(f"{spec.path}: its subspace is not of rank {spec.rank}.")
                G = once(done, tree.matrix(i), placement.mesh)
                done = dion._step(placement, i, G, Q[i], M[i], jax.random.fold_in(key, i))
                steps[i], Q[i], M[i] = done
            return tree.replace(steps), tree.build(Q.__getitem__), tree.build(M.__getitem__)

        steps, basis, residual = run_in_auto(
            step,
            lambda: jax.tree.map(typed_spec, (updates, state.basis, state.residual)),
            placement.mesh,
            *(self, updates, state.basis, state.residual),
            jax.random.fold_in(state.key, state.count),
        )
        count = optax.safe_increment(state.count)
        new_state = state._replace(count=count, basis=basis, residual=residual)
        return steps, placement.settle(new_state)

    def _placement(self, params: Any) -> Placement:
        tree = MatrixTree(params, self.specs(params))
        return Placement(tree, "", self.zero_axis, self._start_state)

    def _start_state(self, params: Any) -> LowRankState:
        """The state before the first step, wherever it is."""
        tree = MatrixTree(params, self.specs(params))
        key = as_key(self.seed)

        def draw(i: int) -> Array:
            spec, dtype = tree.matrices[i], wide_dtype(tree.dtype(i))
            shape = (*spec.batch, spec.n, spec.rank)
            return jax.random.normal(jax.random.fold_in(key, i), shape, dtype)

        return LowRankState(
            count=jnp.zeros((), jnp.int32),
            key=key,
            schedule=(),
            basis=tree.build(draw),
            inner=(),
            residual=tree.build(lambda i: self.stored.zeros(tree.matrices[i].view, tree.dtype(i))),
        )

    def _step(
        self,
        placement: Placement,
        i: int,
        G: Float[Array, "*batch n m"],
        Q: Float[Array, "*batch n r"],
        M: Any,
        key: PRNGKeyArray,
    ) -> tuple[Array, Array, Any]:
        """The step of leaf i, and its new Q and M, which comes and goes as it is stored."""
        dtype = G.dtype
        G = placement.to_work(i, G).astype(Q.dtype)
        X = self.stored.unpack(M, G.shape[-2], Q.dtype) + G
        B = self.momentum * X + G if self.nesterov else X
        P, unit, Q, R = self._factors(B, Q)
        if self.nesterov:
            R = product(X, P)
        M = self.stored.pack(X - (1 - self.momentum) * product(R, P.mT), key)
        rows = placement.gather(i, placement.low_rank(i, P.mT))
        scale = self.scale(placement.tree.matrices[i])
        lifted = product(unit.astype(dtype), rows.astype(dtype)) * scale
        step = lifted.astype(jnp.promote_types(dtype, self.step_dtype or dtype))
        return placement.to_parameter(i, step), Q, M

    def _factors(
        self, B: Float[Array, "*batch n m"], Q: Float[Array, "*batch n r"]
    ) -> tuple[Array, Array, Array, Array]:
        """P (m, r) orthonormal, the unit columns of R, where the next step starts, and R = B P.

        Where devices with different B synchronise, R is of the device's own and the rest of the
        mean. After a zero momentum the next step starts where this one did.
        """

        def iterate(start: Array) -> tuple[Array, Array, Array, Array]:
            P = orthonormal_columns(
                mean_over(product(B.mT, start), self.sync_axis), self.orthogonalize
            )
            # A non-finite gradient shows in R; the zeros are for what Cholesky cannot factorise.
            P = keep_finite(P, jnp.zeros_like(P))
            R = product(B, P)
            mean = mean_over(R, self.sync_axis)
            lengths = jnp.linalg.norm(mean, axis=-2, keepdims=True)
            unit = mean / (lengths + self.eps)
            grown = jnp.any(lengths > 0, axis=-1, keepdims=True)
            return P, unit, jnp.where(grown, unit, start), R

        more = lambda _, start: iterate(start)[2]
        if not isinstance(self.power_iters, int) or self.power_iters > 1:
            Q = jax.lax.fori_loop(1, self.power_iters, more, Q)
        return iterate(Q)


@optimizer
@arguments_of(scale_by_dion)
def dion(*, sync: str | None = None, sync_axis: str = "data", **own: Any) -> Recipe:
    """Dion: an orthonormalised low-rank step by one warm-started power iteration on the momentum.

    W ← (1 − η λ) W − η · scale · Q Pᵀ; see `scale_by_dion`. With `sync` the fallback averages whole
    gradients.

    Args:
      {learning_rate}
      {own}
      {shared}

    Cost:
      m n + n r numbers of state for an m × n matrix, n the compressed side. A step takes 4 m n r
      multiplications, for Mᵀ Q, M P, R Pᵀ and Q Pᵀ, and a QR decomposition of m × r numbers, whose
      operations are fewer but slower; a further power iteration two products and another QR.

    Reference:
      arXiv 2504.05295, algorithm 1.
      As published (`dion_reference`), but for a momentum of zero, after which Q stays what it was.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> tx = lro.dion(0.02, rank=2, fallback_learning_rate=1e-3)
      >>> params = {"w": jnp.ones((4, 8))}
      >>> tx.update(params, tx.init(params))[0]["w"].shape
      (4, 8)
    """
    scale_by = functools.partial(scale_by_dion, sync=sync, sync_axis=sync_axis, **own)
    return Recipe(scale_by, resolve_sync(sync, sync_axis))

"""Any inner optimizer inside any subspace, with the five axes as its arguments."""

from typing import Any

import optax

from lowrank_optax.axes import refresh, residuals, transports
from lowrank_optax.axes.projections.base import Projection
from lowrank_optax.core.axes import Parts
from lowrank_optax.core.dimension_numbers import DimensionNumbers
from lowrank_optax.core.engine import Engine
from lowrank_optax.core.matrices import matrix_specs
from lowrank_optax.core.missing import without_none
from lowrank_optax.core.stored import StoredMoment
from lowrank_optax.linalg.arguments import require_kind
from lowrank_optax.linalg.storage import storage


def scale_by_low_rank(
    inner: optax.GradientTransformation,
    projection: Projection,
    *,
    update_interval: refresh.UpdateInterval = 1,
    stagger: bool = False,
    transport: str | transports.Transport = "keep",
    residual: residuals.Residual | None = None,
    scale: Any = 1.0,
    dimension_numbers: DimensionNumbers = None,
    compress: Any = "smallest",
    mu_dtype: Any = None,
    zero_axis: Any = None,
    seed: Any = 0,
    step_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Run `inner` on the coordinates of the gradient in an r-dimensional subspace.

    For every matrix leaf: A = G + what the residual stored; every `update_interval` steps the
    subspace P is chosen for A and the inner optimizer's state is transported; a = Pᵀ A;
    u = scale · inner(a); the step is P u plus what the residual makes of A − P a.
    Leaves that are not matrices pass through unchanged. A non-finite gradient gives a non-finite
    step, as in optax; `optax.apply_if_finite` around it leaves no trace of it.

    Args:
      inner: any optax transformation; it sees a tree of arrays (..., r, m) in at least float32,
        and as parameters their coordinates in the subspace.
      projection: from `projections`.
      update_interval: T to choose the subspace where count % T == 0, counting from 0; or a
        function of the int32 count that returns a boolean, which at count 0 is not asked; or a
        schedule such as `refresh.adaptive()`. A matrix whose gradient is zero then, as behind
        layers that start at zero, waits in its old subspace for the next refresh.
      stagger: spread the leaves' refreshes evenly over the T steps (the first one excepted), so
        that no step pays for all of them. Then, as under `adaptive`, every matrix has an inner
        optimizer of its own: one that couples leaves, as by a global norm, does so no more.
      transport: "keep", "reset", "rotate", "rotate_first", "rotate_moments", or a `Transport`.
      residual: from `residuals`; None discards.
      scale: factor of u; a number or a function of the `MatrixSpec`.
      dimension_numbers: which leaves are matrices, as for `matrix_specs`.
      compress: which side to compress, as for `matrix_specs`.
      mu_dtype: what the inner optimizer's first moment is stored in between steps: "int8", "int4"
        or "int2" (block-wise, zero exact), "sign", a floating dtype, a `storage`, or None for what
        it is.
      zero_axis: mesh axis, or several, over which the state and the work of parameters that every
        device holds are split by the axis that is not compressed (ZeRO-1); where it does not divide
        evenly they stay whole, which `memory_report` shows. What is gathered is u (r × m), never
        the step (n × m).
      seed: of the random key in the state: a number or a key.
      step_dtype: dtype that the steps have at least, for a chain that goes on computing with them;
        None for the gradients'.

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
      ((2,), (2, 8))
      >>> updates, state = tx.update(params, state)
      >>> updates["w"].shape
      (4, 8)
    """
    require_kind("inner", inner, optax.GradientTransformation, "optax.scale_by_adam()")
    require_kind("projection", projection, Projection, "lro.projections.dct(0.25)")
    if residual is not None:
        require_kind("residual", residual, residuals.Residual, "lro.residuals.discard()")
    parts = Parts(
        inner=optax.with_extra_args_support(inner),
        projection=projection,
        schedule=refresh.resolve(update_interval, stagger),
        transport=transports.resolve(transport),
        residual=residual or residuals.discard(),
        stored=StoredMoment(storage(mu_dtype)),
        scale=scale,
    )
    parts.check()
    engine = Engine(
        parts,
        specs=lambda tree: matrix_specs(
            tree, projection.rank_of, dimension_numbers=dimension_numbers, compress=compress
        ),
        zero_axis=zero_axis,
        seed=seed,
        step_dtype=step_dtype,
    )
    return without_none(optax.GradientTransformationExtraArgs(engine.init, engine.update))

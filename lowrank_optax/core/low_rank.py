"""Any inner optimizer inside any subspace, with the five axes as its arguments."""

import dataclasses
from typing import Any

import jax
import optax

from lowrank_optax.axes import refresh, residuals, transports
from lowrank_optax.axes.projections.base import Projection
from lowrank_optax.core.compatibility import check
from lowrank_optax.core.dimension_numbers import DimensionNumbers
from lowrank_optax.core.engine import Engine, Scale
from lowrank_optax.core.groups import grouped
from lowrank_optax.core.matrices import SpecTable, matrix_specs


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
    zero_axis: Any = None,
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
      zero_axis: mesh axis, or several, over which the state and the work of parameters that every
        device holds are split by rows (ZeRO-1); where the rows do not divide evenly they stay
        whole, which `memory_report` shows. What is gathered is u (m × r), never the step (m × n).
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

    def specs(tree: Any, compress: Any = "smallest") -> SpecTable:
        return matrix_specs(
            tree,
            projection.rank,
            dimension_numbers=dimension_numbers,
            compress=compress,
            partial=_has_masked(tree),
        )

    schedule = refresh.resolve(update_interval, stagger)
    engine = Engine(
        inner=optax.with_extra_args_support(inner),
        projection=projection,
        schedule=schedule,
        transport=transports.resolve(transport),
        residual=residual or residuals.discard(),
        scale=scale,
        specs=specs,
        compress=compress,
        zero_axis=zero_axis,
        seed=seed,
    )
    check(inner, projection, schedule, engine.transport, engine.residual)
    if not schedule.grouped:
        return optax.GradientTransformationExtraArgs(engine.init, engine.update)

    def make(group: int, groups: int) -> optax.GradientTransformationExtraArgs:
        mine = dataclasses.replace(engine, schedule=schedule.for_group(group, groups))
        return optax.GradientTransformationExtraArgs(mine.init, mine.update)

    return grouped(make, specs, schedule.groups)


def _has_masked(tree: Any) -> bool:
    is_masked = lambda node: isinstance(node, optax.MaskedNode)
    return any(map(is_masked, jax.tree.leaves(tree, is_leaf=is_masked)))

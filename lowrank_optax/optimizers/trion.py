"""Trion."""

import functools
from typing import Any

import optax

from lowrank_optax.axes import projections, residuals, selection
from lowrank_optax.core.dimension_numbers import DimensionNumbers
from lowrank_optax.core.low_rank import scale_by_low_rank
from lowrank_optax.linalg.arguments import refuse_renamed, require_static
from lowrank_optax.linalg.newton_schulz import MUON
from lowrank_optax.optimizers._build import Recipe, arguments_of, optimizer
from lowrank_optax.optimizers._shape_scale import step_scale
from lowrank_optax.sharding.synchronise import resolve_sync
from lowrank_optax.transforms import orthonormalize


@refuse_renamed
def scale_by_trion(
    rank: int | float = 128,
    *,
    momentum: Any = 0.95,
    residual_decay: Any = 1.0,
    select: str | selection.Selection = "l1",
    nesterov: bool = False,
    ns_steps: int = 5,
    ns_coeffs: Any = MUON,
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
    """Orthonormalised low-rank momentum in a DCT subspace that is chosen anew at every step.

    In the coefficients Ŝ of the momentum M (Ŝ = Qᵀ M with Q the DCT): Ŝ ← Ŝ + DCT(G);
    I = the r rows of largest norm; b = Ŝ[I]; Ŝ[I] ← μ b; the step is
    scale · Q[:, I] NewtonSchulz(b).

    Args:
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      momentum: μ, the decay of the part of the momentum that was applied.
      residual_decay: decay of the part that was not selected; 1 as published.
      select: "l1" or "l2", the norm that ranks columns, or another selection.
      nesterov: orthonormalise the chosen rows of μ Ŝ + DCT(G) in place of Ŝ.
      ns_steps: Newton–Schulz iterations.
      ns_coeffs: coefficients of the quintic; a triple, or one triple per step, or a name. Or a
        function in place of Newton–Schulz, as for `transforms.orthonormalize`.
      shape_scale: "dion" √(out/in), "muon" √max(1, out/in), "rms" 0.2 √max(out, in), or "none".
      rank_scale: "sqrt" for steps longer by √(n/r), as long as those of full rank; "none" not to.
      mu_dtype: what the momentum is stored in, as for `scale_by_low_rank`; None for the
        parameters', but at least float32.
      sync: "low_rank" to be called inside `jax.shard_map` with every device's own gradient: the
        devices average the columns' scores (n numbers) and b (r × m), and each keeps its own
        momentum (see `local_state_specs`); None for gradients that come averaged.
      sync_axis: axis of `jax.shard_map` that "low_rank" averages over.
      dimension_numbers, compress, zero_axis, seed, step_dtype: as for `scale_by_low_rank`.

    Returns:
      A transformation whose state holds, per matrix, the momentum's coefficients (n, m) and r
      int32 indices, and nothing else. The coefficients are those of before Ŝ[I] ← μ b, which is
      done when they are next used, in the sum with DCT(G); they are in the order of
      `projections.dct(rank).order(n)`.

    Raises:
      TypeError, ValueError: naming the argument, or the parameter with its shape.

    Reference:
      arXiv 2505.17967, algorithm 1 (Trion).
      Differs from the published code in keeping one DCT-II basis for both sides and both code
      paths, and in orthonormalising in float32 and not in bfloat16.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import lowrank_optax as lro
      >>> tx = optax.chain(lro.scale_by_trion(rank=2), optax.scale_by_learning_rate(0.02))
      >>> params = {"w": jnp.ones((4, 8))}
      >>> updates, state = tx.update(params, tx.init(params))
      >>> updates["w"].shape
      (4, 8)
    """
    require_static("ns_steps", ns_steps)
    return scale_by_low_rank(
        orthonormalize(ns_steps, ns_coeffs),
        projections.dct(rank, select=select, sync_axis=resolve_sync(sync, sync_axis)),
        residual=residuals.momentum(momentum, residual_decay, mu_dtype, nesterov=nesterov),
        scale=step_scale(shape_scale, rank_scale),
        dimension_numbers=dimension_numbers,
        compress=compress,
        zero_axis=zero_axis,
        seed=seed,
        step_dtype=step_dtype,
    )


@optimizer
@arguments_of(scale_by_trion)
def trion(*, sync: str | None = None, sync_axis: str = "data", **own: Any) -> Recipe:
    """Trion: orthonormalised low-rank momentum in a DCT subspace chosen anew at every step.

    W ← (1 − η λ) W − η · scale · Q[:, I] NewtonSchulz(b), with b the r rows of largest norm of
    the momentum's DCT; see `scale_by_trion`. With `sync` the fallback averages whole gradients.
    In 300 steps of a small Llama `nesterov=True` and a `residual_decay` that is the momentum's
    lowered the loss by 0.118 ± 0.036 at 0.95 and by 0.261 ± 0.102 at 0.8 (`docs/recipes.md`).

    Args:
      {learning_rate}
      {own}
      {shared}

    Cost:
      m n numbers of state for an m × n matrix, n the compressed side, and r indices. A step takes
      some 3 m n √n multiplications for the DCT; m n r, or for r > n / 2 another DCT, for the
      product with Q; and 2 m r² + 17 r³ for five Newton–Schulz iterations (10 m r² + 5 r³ for
      m < 1.5 r). The last two dominate, and grow with r.

    Reference:
      arXiv 2505.17967, algorithm 1.
      Differs as `scale_by_trion` does.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import lowrank_optax as lro
      >>> tx = lro.trion(learning_rate=0.02, rank=2, fallback_learning_rate=1e-3)
      >>> params = {"w": jnp.ones((4, 8)), "b": jnp.ones(8)}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["w"].shape
      (4, 8)
    """
    scale_by = functools.partial(scale_by_trion, sync=sync, sync_axis=sync_axis, **own)
    return Recipe(scale_by, resolve_sync(sync, sync_axis))

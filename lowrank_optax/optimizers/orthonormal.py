"""Methods whose step has orthonormal columns: Trion and Dion."""

import math
from collections.abc import Callable
from typing import Any

import optax

from lowrank_optax import transforms
from lowrank_optax.axes import projections, residuals
from lowrank_optax.core.dimension_numbers import DimensionNumbers
from lowrank_optax.core.low_rank import scale_by_low_rank
from lowrank_optax.core.matrices import MatrixSpec
from lowrank_optax.linalg.arguments import require_static
from lowrank_optax.sharding.synchronise import resolve_sync

NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)

SHAPE_SCALES: dict[str, Callable[[MatrixSpec], float]] = {
    "dion": lambda spec: math.sqrt(spec.fan_out / spec.fan_in),
    "muon": lambda spec: math.sqrt(max(1.0, spec.fan_out / spec.fan_in)),
    "rms": lambda spec: 0.2 * math.sqrt(max(spec.fan_out, spec.fan_in)),
    "none": lambda spec: 1.0,
}


def shape_scale_function(name: str) -> Callable[[MatrixSpec], float]:
    """The factor that makes steps of differently shaped matrices comparable.

    Raises:
      ValueError: if the name is unknown.
    """
    if name not in SHAPE_SCALES:
        raise ValueError(f"shape_scale={name!r} is unknown; use one of {tuple(SHAPE_SCALES)}.")
    return SHAPE_SCALES[name]


def scale_by_trion(
    rank: int | float = 128,
    *,
    momentum: Any = 0.95,
    residual_decay: Any = 1.0,
    norm: str = "l1",
    ns_steps: int = 5,
    ns_coeffs: Any = NS_COEFFICIENTS,
    shape_scale: str = "dion",
    dimension_numbers: DimensionNumbers = None,
    momentum_dtype: Any = None,
    seed: Any = 0,
    compress: str = "smallest",
    zero_axis: Any = None,
    sync: str | None = None,
    sync_axis: str = "data",
) -> optax.GradientTransformationExtraArgs:
    """Orthonormalised low-rank momentum in a DCT subspace that is chosen anew at every step.

    In the coefficients Ŝ of the momentum M (Ŝ = M Q with Q the DCT): Ŝ ← Ŝ + DCT(G);
    I = the r columns of largest norm; b = Ŝ[:, I]; Ŝ[:, I] ← μ b; the step is
    scale · NewtonSchulz(b) Q[:, I]ᵀ.

    Args:
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      momentum: μ, the decay of the part of the momentum that was applied.
      residual_decay: decay of the part that was not selected; 1 as published.
      norm: "l1" or "l2", the norm that ranks columns.
      ns_steps: Newton–Schulz iterations.
      ns_coeffs: coefficients of the quintic; a triple, or one triple per step.
      shape_scale: "dion" √(out/in), "muon" √max(1, out/in), "rms" 0.2 √max(out, in), or "none".
      dimension_numbers: which leaves are matrices, as for `matrix_specs`; others pass through.
      momentum_dtype: dtype in which the momentum is stored; None for the parameters'.
      seed: of the random key, if any part is random.
      compress: which side to compress, as for `matrix_specs`.
      zero_axis: mesh axis, or several, over which the state is split, as for `scale_by_low_rank`.
      sync: "low_rank" to be called inside `jax.shard_map` with every device's own gradient: the
        devices average the columns' scores (n numbers) and b (m × r), and each keeps its own
        momentum (see `local_state_specs`); None for gradients that come averaged.
      sync_axis: axis of `jax.shard_map` that "low_rank" averages over.

    Returns:
      A transformation whose state holds, per matrix, the momentum's coefficients (m, n) and r
      int32 indices, and nothing else.

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
    return scale_by_low_rank(
        transforms.orthonormalize(ns_steps, ns_coeffs),
        projections.dct(rank, select=norm, sync_axis=resolve_sync(sync, sync_axis)),
        residual=residuals.momentum(momentum, residual_decay, momentum_dtype),
        scale=shape_scale_function(shape_scale),
        dimension_numbers=dimension_numbers,
        compress=compress,
        zero_axis=zero_axis,
        seed=seed,
    )


def scale_by_dion(
    rank: int | float = 128,
    *,
    momentum: Any = 0.95,
    power_iters: int = 1,
    eps: Any = 1e-8,
    orthogonalize: str = "qr",
    shape_scale: str = "dion",
    dimension_numbers: DimensionNumbers = None,
    momentum_dtype: Any = None,
    seed: Any = 0,
    compress: str = "smallest",
    zero_axis: Any = None,
    sync: str | None = None,
    sync_axis: str = "data",
) -> optax.GradientTransformationExtraArgs:
    """Orthonormalised low-rank momentum by a warm-started power iteration.

    M ← M + G; P = orth(M Q); R = Mᵀ P; M ← M − (1 − μ) P Rᵀ; Q ← R with columns of unit length;
    the step is scale · P Qᵀ. Q starts as a normal draw.

    Args:
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      momentum: μ, the decay of the part of the momentum that was applied.
      power_iters: power iterations per step.
      eps: added to the length of R's columns.
      orthogonalize: "qr", or "cholesky_qr", which with rows sharded moves r² numbers only.
      shape_scale: as for `scale_by_trion`.
      dimension_numbers: which leaves are matrices, as for `matrix_specs`; others pass through.
      momentum_dtype: dtype in which the momentum is stored; None for the parameters'.
      seed: of the normal draw.
      compress: which side Q lives on, as for `matrix_specs`.
      zero_axis: mesh axis, or several, over which the state is split, as for `scale_by_low_rank`.
      sync: "low_rank" to be called inside `jax.shard_map` with every device's own gradient: the
        devices average M Q (m × r) and Mᵀ P (n × r), and each keeps its own M (see
        `local_state_specs`); None for gradients that come averaged.
      sync_axis: axis of `jax.shard_map` that "low_rank" averages over.

    Returns:
      A transformation whose state holds, per matrix, M (m, n) and Q (n, r), and one random key.

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
    require_static("power_iters", power_iters)
    return scale_by_low_rank(
        optax.identity(),
        projections.alternating(
            rank,
            iterations=power_iters,
            eps=eps,
            orthogonalize=orthogonalize,
            sync_axis=resolve_sync(sync, sync_axis),
        ),
        residual=residuals.momentum(momentum, dtype=momentum_dtype),
        scale=shape_scale_function(shape_scale),
        dimension_numbers=dimension_numbers,
        compress=compress,
        zero_axis=zero_axis,
        seed=seed,
    )

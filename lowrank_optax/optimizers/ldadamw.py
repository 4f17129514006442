"""LDAdamW."""

from typing import Any

from lowrank_optax.axes import projections, residuals, transports
from lowrank_optax.optimizers._build import Recipe, in_subspace, optimizer
from lowrank_optax.transforms import resolve


@optimizer
def ldadamw(
    rank: int | float = 128,
    *,
    b1: Any = 0.908,
    b2: Any = 0.99,
    eps: Any = 1e-8,
    rho: Any = 0.908,
    error_feedback: Any = True,
    mu_dtype: Any = None,
) -> Recipe:
    """LDAdamW: Adam in a subspace that follows momentum and gradient by a power iteration per step.

    With matrices (n, m), the compressed axis first: A = G + E; P = one block power iteration on
    ρ P m̂ + (1 − ρ) A from the last P; Adam's moments are rotated as the statistics that they
    estimate; a = Pᵀ A; E ← A − P a + β₁/(1 − β₁) (P_previous m − P n);
    W ← (1 − η λ) W − η P Adam(a).

    Args:
      {learning_rate}
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      b1, b2, eps: of Adam.
      rho: ρ, the weight of the momentum in the power iteration.
      error_feedback: True or "float32" for E in computing precision, "int8" or "int4" for E in that
        many bits, False or None for none.
      mu_dtype: of the first moment, as for `scale_by_low_rank`.
      {shared}

    Cost:
      2 m r + n r + m n numbers of state for an m × n matrix, n the compressed side. A step takes
      6 m n r multiplications, two of them for the power iteration and two for the feedback, and a
      QR decomposition of n × r numbers, whose operations are fewer but slower.

    Reference:
      arXiv 2410.16103, algorithm 1.
      Differs from the published code in compressing the in side of a square matrix
      (`compress="out"` does what it does).

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> tx = lro.ldadamw(1e-3, rank=2)
      >>> params = {"w": jnp.ones((4, 8))}
      >>> tx.update(params, tx.init(params))[0]["w"].shape
      (4, 8)
    """
    storage = "float32" if error_feedback is True else error_feedback
    residual = residuals.discard()
    if storage:
        residual = residuals.error_feedback(storage, moment_decay=b1)
    return in_subspace(
        resolve("adam", b1=b1, b2=b2, eps=eps),
        projections.power_iteration(rank, rho=rho, b1=b1),
        transport=transports.RotateMoments(b1, b2),
        residual=residual,
        mu_dtype=mu_dtype,
    )

"""DCT-AdamW."""

from typing import Any

from lowrank_optax.axes import projections, refresh, residuals, selection
from lowrank_optax.linalg.arguments import check_b2, check_fraction
from lowrank_optax.optimizers._build import Recipe, in_subspace, optimizer
from lowrank_optax.transforms import resolve


@optimizer
def dct_adamw(
    rank: int | float = 128,
    *,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    update_interval: refresh.UpdateInterval = 1,
    rotate: bool = True,
    error_feedback: Any = "int8",
    select: str | selection.Selection = "l1",
    mu_dtype: Any = None,
) -> Recipe:
    """DCT-AdamW: AdamW on the r DCT columns that hold most of the gradient, with error feedback.

    With matrices (n, m), the compressed axis first: A = G + E; on a refresh I = the r rows of
    DCT(A) = Qᵀ A of largest norm, and the moments move with their rows; a = DCT(A)[I];
    E ← A − Q[:, I] a; W ← (1 − η λ) W − η Q[:, I] Adam(a).
    In 300 steps of a small Llama neither a b2 of 0.95 helped nor, beside it, to leave out the error
    feedback (`docs/recipes.md`).

    Args:
      {learning_rate}
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      b1, b2, eps: of Adam.
      update_interval: T to refresh at the first step and at every T-th, counting steps from 1 as
        the published code does (so the first interval is one step shorter); or a function of the
        count of steps already taken that returns a boolean.
      rotate: whether a column chosen again carries its moments along; if not, moments stay in
        their slots (slots are in ascending order of the columns' indices).
      error_feedback: what E is stored in: "int8", "int4" or "float32"; None for no error feedback.
      select: "l1" or "l2", the norm that ranks columns, or another selection.
      mu_dtype: of Adam's first moment, as for `scale_by_low_rank`.
      {shared}

    Cost:
      2 m r + m n / 4 numbers of state for an m × n matrix, n the compressed side (those of the
      feedback have 8 bits), and r indices. A step takes some 3 m n √n multiplications for the DCT,
      and m n r, which dominate, for the step Q[:, I] Adam(a); for r > n / 2 another DCT instead.

    Reference:
      arXiv 2505.17967, algorithm 2.
      Differs from the published code in its quantisers, which lose most of their levels there, and
      in moving the moments by matching indices instead of a product that overwrites its operand.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import lowrank_optax as lro
      >>> tx = lro.dct_adamw(1e-3, rank=0.5, error_feedback=None)
      >>> params = {"w": jnp.ones((4, 8)), "b": jnp.ones(8)}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["w"].shape
      (4, 8)
    """
    check_fraction("b1", b1)
    check_b2(b2)
    residual = residuals.error_feedback(error_feedback) if error_feedback else residuals.discard()
    return in_subspace(
        resolve("adam", b1=b1, b2=b2, eps=eps),
        projections.dct(rank, select=select),
        # The first step, then steps T, 2T, … counted from 1.
        update_interval=refresh.resolve(update_interval, offset=-1),
        transport="rotate" if rotate else "keep",
        residual=residual,
        mu_dtype=mu_dtype,
    )

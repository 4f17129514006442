"""Dion2 and Dion3: the momentum's largest rows or columns, orthonormalised."""

from typing import Any

from lowrank_optax.axes import projections, residuals
from lowrank_optax.axes.selection import Selection
from lowrank_optax.linalg.arguments import require_static
from lowrank_optax.linalg.newton_schulz import MUON
from lowrank_optax.optimizers._build import Recipe, in_subspace, optimizer, with_neurons
from lowrank_optax.optimizers._shape_scale import step_scale
from lowrank_optax.transforms import orthonormalize


@optimizer
def dion2(
    rank: int | float = 0.25,
    *,
    momentum: Any = 0.95,
    select: str | Selection = "l1",
    neuron_decay: Any = None,
    ns_steps: int = 5,
    ns_coeffs: Any = MUON,
    shape_scale: str = "dion",
    rank_scale: str = "none",
    mu_dtype: Any = None,
) -> Recipe:
    """Dion2: the r rows or columns of largest norm of a momentum, of which only they are decayed.

    M ← M + G; I = the r largest of the compressed axis; the step is scale · NewtonSchulz(M[I]) in
    their places; M[I] ← μ M[I].

    Args:
      {learning_rate}
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension.
      momentum: μ, the decay of the part that was applied.
      select: "l1" or "l2", or another selection.
      neuron_decay: of the mean squares of each neuron's step; None not to normalise neurons.
      ns_steps, ns_coeffs: of Newton–Schulz, as for `transforms.orthonormalize`.
      shape_scale, rank_scale: as for `scale_by_trion`.
      mu_dtype: of the momentum, as for `residuals.momentum`.
      {shared}

    Cost:
      m n numbers of state for an m × n matrix, n the compressed side, and r indices. A step takes
      2 m r² + 17 r³ multiplications for five Newton–Schulz iterations (10 m r² + 5 r³ for
      m < 1.5 r), and no product with the whole matrix.

    Reference:
      arXiv 2512.16928.
      Differs from the published code in choosing along the in side of a square matrix
      (`compress="out"` does what it does), and in a Newton–Schulz with Muon's coefficients in
      float32; there it has those of Polar Express (`ns_coeffs="polar_express"`) in bfloat16.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> params = {"w": jnp.ones((4, 8))}
      >>> tx = lro.dion2(0.02)
      >>> tx.update(params, tx.init(params))[0]["w"].shape
      (4, 8)
    """
    require_static("ns_steps", ns_steps)
    recipe = in_subspace(
        orthonormalize(ns_steps, ns_coeffs),
        projections.identity(rank, select),
        residual=residuals.momentum(momentum, 1.0, mu_dtype),
        scale=step_scale(shape_scale, rank_scale),
    )
    return with_neurons(recipe, neuron_decay)


@optimizer
def dion3(
    rank: int | float = 0.25,
    *,
    momentum: Any = 0.9,
    neuron_decay: Any = 0.95,
    ns_steps: int = 5,
    ns_coeffs: Any = MUON,
    rank_scale: str = "sqrt",
    shape_scale: str = "dion",
    mu_dtype: Any = None,
) -> Recipe:
    """Dion3: `dion2` with normalised neurons, and steps of one length at every rank.

    M ← M + G; I = the r largest of the compressed axis' n; U = scale · √(n/r) NewtonSchulz(M[I]) in
    their places; M[I] ← μ M[I]; the step is U after `normalize_neurons`.

    Args:
      {learning_rate}
      rank, momentum, neuron_decay, ns_steps, ns_coeffs, rank_scale, shape_scale, mu_dtype: as for
        `dion2`.
      {shared}

    Cost:
      m n numbers of state for an m × n matrix, n the compressed side, r indices, and a number per
      output neuron. A step takes what one of `dion2` takes, and two passes over the matrix.

    Reference:
      arXiv 2608.11612.
      Differs from the published code (`NorDion2`) as `dion2` does; in choosing along the smaller
      side, where that chooses output neurons (`compress="out"` does so); in `rank_scale`, which is
      "none" there; and in the momentum, 0.95 there.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> params = {"w": jnp.ones((4, 8))}
      >>> tx = lro.dion3(0.02)
      >>> tx.update(params, tx.init(params))[0]["w"].shape
      (4, 8)
    """
    return dion2.recipe(
        rank,
        momentum=momentum,
        neuron_decay=neuron_decay,
        ns_steps=ns_steps,
        ns_coeffs=ns_coeffs,
        rank_scale=rank_scale,
        shape_scale=shape_scale,
        mu_dtype=mu_dtype,
    )

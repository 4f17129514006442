"""Tandem: a few columns with a memory and the rest without one."""

from typing import Any

import optax

from lowrank_optax.axes import residuals
from lowrank_optax.axes.projections import Projection, by_name
from lowrank_optax.axes.refresh import UpdateInterval
from lowrank_optax.axes.residuals.feedback import Momentum
from lowrank_optax.axes.selection import Selection, following
from lowrank_optax.linalg.arguments import check_fraction, require_static
from lowrank_optax.linalg.newton_schulz import MUON
from lowrank_optax.linalg.storage import storage
from lowrank_optax.optimizers._build import Recipe, in_subspace, optimizer, with_neurons
from lowrank_optax.optimizers._shape_scale import step_scale
from lowrank_optax.transforms import orthonormalize

RESTS = ("orthonormal", "sinkhorn", "none")
FIXED = ("identity", "dct", "hadamard", "random_orthogonal")
"""The projections by name whose columns are chosen by the momentum and the gradient together."""


@optimizer
def tandem(
    rank: int | float = 0.5,
    *,
    rest: str | residuals.Residual = "orthonormal",
    blocks: Any = None,
    momentum: Any = 0.9,
    nesterov: bool = True,
    neuron_decay: Any = 0.95,
    projection: str | Projection = "identity",
    select: str | Selection | None = None,
    update_interval: UpdateInterval = 1,
    ns_steps: int = 5,
    ns_coeffs: Any = MUON,
    shape_scale: str = "dion",
    rank_scale: str = "none",
    mu_dtype: Any = "int4",
) -> Recipe:
    """Tandem: r columns with a momentum, the rest of each gradient without one, both orthonormal.

    With matrices (n, m), the compressed axis first: I = the r rows of largest norm of G + μ P M,
    with M the momentum of the rows chosen last; M ← μ M + G[I], where a row chosen anew starts from
    zero; the step is scale · (P NewtonSchulz(μ M + G[I]) + orth(G without rows I)), where orth
    orthonormalises `blocks` blocks of rows, each on its own; then every output neuron's step is
    divided by the root mean square of its history.

    Args:
      {learning_rate}
      rank: r as an int, or as a fraction in (0, 1] of the compressed dimension; 1.0 is NorMuon,
        stored as `mu_dtype` says.
      rest: "orthonormal", "sinkhorn" (normalise rows and columns in turn), "none" (drop the rest),
        or one of `residuals` that keeps no momentum of its own.
      blocks: of the rest; None for 4.
      momentum: μ; None to keep no M: then G[I] is orthonormalised, columns are ranked by G alone,
        and `nesterov` and `mu_dtype` have no meaning.
      nesterov: orthonormalise μ M + G[I]; else M.
      neuron_decay: of the mean squares of each neuron's step; None not to normalise neurons.
      projection: "identity" (rows of the gradient itself), "dct" or another name of
        `projections.by_name`, or a projection, whose own rank and selection then hold. Outside a
        learned one every row has a rest: steps are √(1 + r/n) as long as in a fixed basis, nearly.
      select: "l1" or "l2", the norm that ranks columns, or another selection; None for the
        projection's default.
      update_interval: T, refreshing where count % T == 0, or a schedule as for `scale_by_low_rank`.
      ns_steps, ns_coeffs: of Newton–Schulz, as for `transforms.orthonormalize`.
      shape_scale: as for `scale_by_trion`.
      rank_scale: as for `scale_by_trion`, where the rest is dropped. With a rest the step has all n
        columns at every r, and is as long without it.
      mu_dtype: of M: "int8", "int4", "int2", "sign", a floating dtype, a `storage`; None for the
        parameters', but at least float32. With r = n/2 in 4 bits the state is 1/32 of AdamW's,
        scales and neurons apart, and the loss lower than with r = n/4 in 8 bits.
      {shared}

    Cost:
      m r numbers of state (in `mu_dtype`) for an m × n matrix, n the compressed side, r indices,
      and a number per output neuron. A step takes 2 m r² + 17 r³ multiplications for five
      Newton–Schulz iterations on the r columns, m n² / 2 + n³ for those on four blocks of the rest.

    Reference:
      This library's own; see `docs/recipes.md`. The momentum's part is Muon's, the rest SWAN's
      (arXiv 2412.13148) in blocks, the neurons' NorMuon's (arXiv 2510.05491).

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> tx = lro.tandem(0.04, fallback_learning_rate=3e-3)
      >>> params = {"w": jnp.ones((4, 8))}
      >>> tx.update(params, tx.init(params))[0]["w"].shape
      (4, 8)
    """
    require_static("ns_steps", ns_steps)
    outside, stored = _residual(rest, blocks, ns_steps, ns_coeffs), storage(mu_dtype)
    memory, transport = optax.identity(), "keep"
    if momentum is None and getattr(select, "follow", None) is not None:
        raise ValueError(f"select={select} follows a momentum, but momentum=None keeps none.")
    if momentum is not None:
        check_fraction("momentum", momentum)
        memory, transport = optax.trace(momentum, nesterov), "rotate"
        if projection in FIXED and getattr(select, "follow", None) is None:
            select = following(momentum, select or "l1")
    recipe = in_subspace(
        optax.chain(memory, orthonormalize(ns_steps, ns_coeffs)),
        by_name(projection, rank, select),
        update_interval=update_interval,
        transport=transport,
        residual=outside,
        scale=step_scale(shape_scale, rank_scale, outside),
        mu_dtype=None if momentum is None else stored,
    )
    return with_neurons(recipe, neuron_decay)


def _residual(
    rest: str | residuals.Residual, blocks: Any, ns_steps: int, ns_coeffs: Any
) -> residuals.Residual:
    """What `rest` names."""
    if blocks is not None and rest != "orthonormal":
        raise ValueError(f"blocks={blocks} are those of rest='orthonormal', not of rest={rest!r}.")
    if isinstance(rest, residuals.Residual):
        if isinstance(rest, Momentum):
            raise ValueError(
                f"rest={rest} keeps a momentum of the whole gradient, as tandem does of the chosen "
                "columns: these would be averaged twice. Use lro.trion, or a rest without one."
            )
        return rest
    if rest not in RESTS:
        raise ValueError(f"rest={rest!r} is unknown; use one of {RESTS}, or one of `residuals`.")
    if rest == "orthonormal":
        return residuals.orthonormal(
            4 if blocks is None else blocks, ns_steps=ns_steps, ns_coeffs=ns_coeffs
        )
    return residuals.sinkhorn() if rest == "sinkhorn" else residuals.discard()

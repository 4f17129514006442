"""Options of single optimizers; builders in `training.steps.optimizers` take them by name."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

import tyro

from training.config.options import UNSET

STORED_ERRORS = ("int8", "int4", "float32")


def _or_none(read: Callable[[str], Any], metavar: str) -> Any:
    """How the value of a part that may be left out is read: None means "none", and not unset."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{metavar}|none",
        instance_from_str=lambda words: "none" if words[0].lower() == "none" else read(words[0]),
        is_instance=lambda _: True,
        str_from_instance=lambda value: [str(value)],
    )


def _stored_error(word: str) -> str:
    if word not in STORED_ERRORS:
        raise ValueError(f"{word!r} is not one of {', '.join(STORED_ERRORS)} or none")
    return word


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """Options of single optimizers. Unset means the optimizer's own default; an option that the
    chosen optimizer does not take is an error."""

    momentum: Annotated[float | str | None, _or_none(float, "FLOAT"), UNSET] = None
    """Decay of the momentum (muon, normuon, tandem, trion, dion, dion2, dion3, sgd), or none, which
    keeps none (normuon, tandem)."""
    nesterov: Annotated[bool | None, UNSET] = None
    """Nesterov momentum (adamw, muon, normuon, tandem, sgd, trion, dion)."""
    residual_decay: Annotated[float | None, UNSET] = None
    """Decay of the momentum outside the selected subspace; 1 is the published rule (trion)."""
    ns_steps: Annotated[int | None, UNSET] = None
    """Newton-Schulz iterations (muon, normuon, tandem, trion, dion2, dion3)."""
    power_iters: Annotated[int | None, UNSET] = None
    """Power iterations per step (dion)."""
    orthogonalize: Annotated[Literal["qr", "cholesky_qr"] | None, UNSET] = None
    """How the factor is orthonormalised (dion)."""
    shape_scale: Annotated[Literal["dion", "muon", "rms", "none"] | None, UNSET] = None
    """How the update's size follows the matrix's shape (tandem, normuon, trion, dion, dion2,
    dion3)."""
    rank_scale: Annotated[Literal["none", "sqrt"] | None, UNSET] = None
    """How it follows the rank: not, or as sqrt(n/r), by which --shape-scale rms takes AdamW's
    learning rates (tandem, trion, dion, dion2, dion3)."""
    b1: Annotated[float | None, UNSET] = None
    """Decay of the first moment (Adam and Lion, inside a subspace too)."""
    b2: Annotated[float | None, UNSET] = None
    """Decay of the second moment (the same)."""
    eps: Annotated[float | None, UNSET] = None
    """Added to the denominator (the same, and muon, dion)."""
    rho: Annotated[float | None, UNSET] = None
    """Weight of the momentum in the power iteration (ldadamw)."""
    scale: Annotated[float | None, UNSET] = None
    """Factor of the low-rank step (galore, golore, fira, online_subspace_descent, low_rank, alice0)
    or of the whole (apollo, apollo_mini)."""
    inactive_scale: Annotated[float | None, UNSET] = None
    """Step size of the sign descent outside the subspace, relative to the inside (frugal)."""
    growth_limit: Annotated[float | None, UNSET] = None
    """Largest growth in a step of what is outside the subspace (fira, alice0), or of the step
    (apollo, apollo_mini)."""
    penalty: Annotated[float | None, UNSET] = None
    """Weight of the orthogonality of the subspace's basis (online_subspace_descent)."""
    projection_optimizer: Annotated[Literal["sgd", "lion", "adafactor"] | None, UNSET] = None
    """What moves the subspace, at 1/200, in place of AdamW (online_subspace_descent)."""
    update_interval: Annotated[int | None, UNSET] = None
    """Steps between two choices of the subspace."""
    stagger: Annotated[bool | None, UNSET] = None
    """Spread the matrices' choices over the interval (galore, golore, frugal, fira, low_rank)."""
    random_after: Annotated[int | None, UNSET] = None
    """First step from which the subspace is random (golore)."""
    rotate: Annotated[bool | None, UNSET] = None
    """Whether the moments follow the subspace when it changes (dct_adamw)."""
    error_feedback: Annotated[
        str | None, _or_none(_stored_error, "|".join(STORED_ERRORS)), UNSET
    ] = None
    """Type of the stored projection error, or none (dct_adamw, ldadamw)."""
    projection: Annotated[str | None, UNSET] = None
    """Subspace: dct, svd, random, identity, hadamard, random_orthogonal, power_iteration or
    online_pca (tandem, frugal, fira, low_rank)."""
    select: Annotated[str | None, UNSET] = None
    """What it selects: top, l1, l2, importance, hybrid or uniform (tandem, trion, dct_adamw,
    dion2, galore, frugal, fira, alice0, low_rank)."""
    transport: Annotated[str | None, UNSET] = None
    """What happens to the moments when it changes: keep, reset, rotate, rotate_first or
    rotate_moments (low_rank)."""
    residual: Annotated[str | None, UNSET] = None
    """What happens to the gradient outside it: discard, sign_descent, sgd, norm_scaling,
    error_feedback or momentum (low_rank)."""
    inner: Annotated[str | None, UNSET] = None
    """Optimizer inside it: adam, adam8bit, adam_mini, adafactor, lion or sgd (galore, golore,
    frugal, online_subspace_descent, low_rank)."""
    compress: Annotated[Literal["smallest", "in", "out"] | None, UNSET] = None
    """Which axis of a matrix is compressed (all of lowrank_optax)."""
    mu_dtype: Annotated[
        Literal["float32", "bfloat16", "int8", "int4", "int2", "sign"] | None, UNSET
    ] = None
    """Storage type of the first moment (adamw, lion, muon, sgd and all of lowrank_optax; less than
    bfloat16 the latter only)."""
    rest: Annotated[Literal["orthonormal", "sinkhorn", "none"] | None, UNSET] = None
    """What becomes of the gradient outside the chosen columns (tandem)."""
    blocks: Annotated[int | None, UNSET] = None
    """Blocks in which that is orthonormalised (tandem)."""
    neuron_decay: Annotated[float | str | None, _or_none(float, "FLOAT"), UNSET] = None
    """Decay of the mean squares by which neurons' steps are normalised, or none, which leaves them
    as they are (tandem, normuon, dion2, dion3)."""
    cautious: Annotated[bool | None, UNSET] = None
    """Decay weights only where the step agrees (all of lowrank_optax)."""

"""Optimizers by name, for the command line.

To add one: write (or name) a builder `build(learning_rate, *, ...)` and add a line to `OPTIMIZERS`.
A builder's keyword arguments decide which options of the command line it takes.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

import lowrank_optax as lro
from models.llama import matrix_dimension_numbers
from training.config.hyperparameters import Hyperparameters
from training.config.resolved import Method
from training.errors import UserError, as_flag, as_user_error, nearest


@dataclasses.dataclass(frozen=True)
class OptimizerEntry:
    """How to build an optimizer, and a peak learning rate that suits small Llamas."""

    build: Callable[..., optax.GradientTransformation]
    learning_rate: float


def decay_mask(params: optax.Params) -> Any:
    """True for matrices and embeddings, False for norms and biases, as a pytree of params' shape.

    By name and not by rank: a stacked norm has two axes as well.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(path[-1], "key", None) in ("kernel", "embedding"), params
    )


def _sgd(
    learning_rate: Any,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    mu_dtype: Any = None,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    return optax.chain(
        optax.trace(momentum, nesterov=nesterov, accumulator_dtype=mu_dtype),
        optax.add_decayed_weights(weight_decay, decay_mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def _muon(
    learning_rate: Any,
    *,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    eps: float = 1e-8,
    mu_dtype: Any = None,
    weight_decay: float = 0.0,
    fallback_learning_rate: Any = None,
    dimension_numbers: Any = None,
) -> optax.GradientTransformation:
    return optax.contrib.muon(
        learning_rate,
        beta=momentum,
        nesterov=nesterov,
        ns_steps=ns_steps,
        eps=eps,
        mu_dtype=mu_dtype,
        weight_decay=weight_decay,
        # Decays the matrices only, as optax.contrib.muon does by default.
        adam_learning_rate=fallback_learning_rate,
        muon_weight_dimension_numbers=dimension_numbers,
    )


def _adam8bit(
    learning_rate: Any,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    return optax.chain(
        lro.scale_by_adam8bit(b1, b2, eps),
        optax.add_decayed_weights(weight_decay, decay_mask),
        optax.scale_by_learning_rate(learning_rate),
    )


OPTIMIZERS: dict[str, OptimizerEntry] = {
    "adamw": OptimizerEntry(optax.adamw, 0.003),
    "lion": OptimizerEntry(optax.lion, 0.0005),
    "sgd": OptimizerEntry(_sgd, 0.1),
    "muon": OptimizerEntry(_muon, 0.01),
    "tandem": OptimizerEntry(lro.tandem, 0.04),
    "normuon": OptimizerEntry(lro.normuon, 0.02),
    "trion": OptimizerEntry(lro.trion, 0.02),
    "dct_adamw": OptimizerEntry(lro.dct_adamw, 0.003),
    "dion": OptimizerEntry(lro.dion, 0.02),
    "dion2": OptimizerEntry(lro.dion2, 0.02),
    "dion3": OptimizerEntry(lro.dion3, 0.02),
    "galore": OptimizerEntry(lro.galore, 0.01),
    "golore": OptimizerEntry(lro.golore, 0.01),
    "ldadamw": OptimizerEntry(lro.ldadamw, 0.003),
    "frugal": OptimizerEntry(lro.frugal, 0.003),
    "fira": OptimizerEntry(lro.fira, 0.01),
    "alice0": OptimizerEntry(lro.alice0, 0.02),
    "apollo": OptimizerEntry(lro.apollo, 0.01),
    "apollo_mini": OptimizerEntry(lro.apollo_mini, 0.01),
    "online_subspace_descent": OptimizerEntry(lro.online_subspace_descent, 0.003),
    "low_rank": OptimizerEntry(lro.low_rank, 0.003),
    "adam8bit": OptimizerEntry(_adam8bit, 0.003),
}


# Optimizers of optax whose update of an entry of a matrix depends on no other entry.
ELEMENTWISE = ("adamw", "lion", "sgd")

# Options by which a part is left out: on the command line "none", in Python None.
WITHOUT = ("momentum", "neuron_decay", "error_feedback")

# Optimizers whose step needs no momentum.
FORGETFUL = ("normuon", "tandem")

# What may move the subspace of Online Subspace Descent in place of AdamW, at its published rate.
PROJECTION_RATE = 1 / 200
PROJECTION_OPTIMIZERS: dict[str, optax.GradientTransformation] = {
    "sgd": optax.sgd(PROJECTION_RATE),
    "lion": optax.lion(PROJECTION_RATE, weight_decay=0.0),
    "adafactor": optax.chain(
        optax.scale_by_factored_rms(), optax.scale_by_learning_rate(PROJECTION_RATE)
    ),
}

# Mesh axis that --zero splits optimizer states over.
ZERO_AXIS = "data"


def get_entry(name: str) -> OptimizerEntry:
    """The registry's entry for an optimizer."""
    if name not in OPTIMIZERS:
        raise UserError(f"unknown optimizer {name!r}.{nearest(name, OPTIMIZERS)}")
    return OPTIMIZERS[name]


def accepted_options(name: str) -> list[str]:
    """Names of the command line's optimizer options that an optimizer takes."""
    parameters = inspect.signature(get_entry(name).build).parameters
    return [option for option in optimizer_options() if option in parameters]


def optimizer_options() -> list[str]:
    """Names of all options that only some optimizers take."""
    hyperparameters = [field.name for field in dataclasses.fields(Hyperparameters)]
    return ["rank", "fallback_learning_rate", *hyperparameters]


def check_accepted(values: Mapping[str, Any], names: list[str]) -> None:
    """Checks that one of the optimizers takes each optimizer option that was set by the user."""
    accepted = {name: accepted_options(name) for name in names}
    given = [option for option in optimizer_options() if values.get(option) is not None]
    for option in given:
        if not any(option in options for options in accepted.values()):
            takes = "; ".join(
                f"{name} takes {', '.join(map(as_flag, options))}"
                for name, options in accepted.items()
            )
            raise UserError(f"{as_flag(option)} is not an option of {', '.join(names)}: {takes}")


def check_zero(name: str) -> None:
    """Checks that an optimizer's state can be split over the data axis."""
    able = [
        other
        for other, entry in OPTIMIZERS.items()
        if other in ELEMENTWISE or "zero_axis" in inspect.signature(entry.build).parameters
    ]
    if name not in able:
        raise UserError(
            f"--zero does not go with {name}, which updates whole matrices only; use one of "
            f"{', '.join(able)}, or split {name}'s state by --mesh fsdp=N"
        )


def builder_arguments(hyperparameters: Hyperparameters) -> dict[str, Any]:
    """The hyperparameters that were set, as arguments for a builder."""
    values = {name: value for name, value in vars(hyperparameters).items() if value is not None}
    if "projection_optimizer" in values:
        values["projection_optimizer"] = PROJECTION_OPTIMIZERS[values["projection_optimizer"]]
    return values | {name: None for name in WITHOUT if values.get(name) == "none"}


def build_optimizer(
    method: Method, *, learning_rate: Any, fallback_learning_rate: Any, seed: int
) -> optax.GradientTransformation:
    """Builds an optimizer, gradient clipping included.

    The rates are floats or float32 scalar arrays, traced or not; `fallback_learning_rate` is that
    of the leaves that are not matrices.
    """
    name = method.optimizer
    build = get_entry(name).build
    parameters = inspect.signature(build).parameters
    zero_axis = ZERO_AXIS if method.zero else None
    mu_dtype = method.hyperparameters.mu_dtype
    if method.hyperparameters.momentum == "none" and name not in FORGETFUL:
        raise UserError(f"--momentum none is for {' and '.join(FORGETFUL)}; {name} needs one")
    if mu_dtype in ("int8", "int4", "int2", "sign") and "zero_axis" not in parameters:
        raise UserError(
            f"--mu-dtype {mu_dtype} is for the optimizers of lowrank_optax; {name} stores its "
            "moments in float32 or bfloat16"
        )
    context = {
        "rank": method.rank,
        "weight_decay": method.weight_decay,
        "mask": decay_mask,
        "dimension_numbers": matrix_dimension_numbers,
        "fallback_learning_rate": fallback_learning_rate,
        "seed": seed,
        "zero_axis": zero_axis,
    }
    arguments = {key: value for key, value in context.items() if key in parameters}
    with as_user_error():
        optimizer = build(learning_rate, **(arguments | builder_arguments(method.hyperparameters)))
    if zero_axis and name in ELEMENTWISE:
        optimizer = lro.zero(optimizer, zero_axis)
    if method.clip_norm:
        return optax.chain(optax.clip_by_global_norm(method.clip_norm), optimizer)
    return optimizer

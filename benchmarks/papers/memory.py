"""Bytes of optimizer state, from shapes alone: methods and feedback, and ZeRO beside low rank."""

import concurrent.futures
import functools
import math
import multiprocessing
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import lowrank_optax as lro
from benchmarks.formulas import FLOAT, FORMULAS, Split
from benchmarks.papers.claims import FAILS, HOLDS, Outcome
from benchmarks.papers.methods import QUARTER, RANKS
from models.configs import get_config
from models.llama import Llama, matrix_dimension_numbers

PRESETS = ("60m", "350m", "1b")
FEEDBACK = ("int8", "int4")
DEVICES = 8
RATE = 1e-3

Build = Callable[..., optax.GradientTransformation]


def _ours(make: Callable[..., Any], **options: Any) -> Build:
    return functools.partial(make, RATE, dimension_numbers=matrix_dimension_numbers, **options)


BUILDS: dict[str, Build] = {
    "adamw": functools.partial(optax.adamw, RATE),
    **{f"trion {label}": _ours(lro.trion, rank=rank) for label, rank in RANKS.items()},
    **{f"dion {label}": _ours(lro.dion, rank=rank) for label, rank in RANKS.items()},
    **{f"ldadamw {label}": _ours(lro.ldadamw, rank=rank) for label, rank in RANKS.items()},
    **{
        f"dct_adamw {label}, feedback {bits}": _ours(lro.dct_adamw, rank=rank, error_feedback=bits)
        for label, rank in RANKS.items()
        for bits in FEEDBACK
    },
}
"""What the claims compare."""

SPLIT = {
    "adamw": "adamw",
    "trion 1/4": "trion",
    "dion 1/4": "dion (qr)",
    "ldadamw 1/4": "ldadamw",
    "dct_adamw 1/4, feedback int8": "dct_adamw",
}
"""What is split by ZeRO: name to the formula of what it sends."""


def parameters(preset: str) -> Any:
    """Shapes of a model's parameters."""
    config = get_config(preset)
    model = nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def size(tree: Any) -> int:
    """Bytes of all arrays."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def measure(data: pathlib.Path | None = None) -> dict[str, Any]:
    """Bytes of every method's state on every preset, and of its parameters."""
    del data
    results = {}
    for preset in PRESETS:
        params = parameters(preset)
        state = lambda build, params=params: lro.memory_report(build(), params).total_bytes
        results[preset] = {
            "parameters": size(params),
            "methods": {name: state(build) for name, build in BUILDS.items()},
        }
    return {"presets": results}


def smaller(results: dict[str, Any], pairs: dict[str, str]) -> list[Outcome]:
    """Whether methods' states are smaller than others'; shares of weights, gradients and state."""
    found = []
    for preset, result in results["presets"].items():
        for smaller, larger in pairs.items():
            ours, theirs = (result["methods"][name] for name in (smaller, larger))
            rest = 2 * result["parameters"]
            here = (
                f"{1 - ours / theirs:.0%} less state, "
                f"{1 - (ours + rest) / (theirs + rest):.0%} less with weights and gradients"
            )
            found.append(
                Outcome(f"{preset}: {smaller} < {larger}", here, HOLDS if ours < theirs else FAILS)
            )
    return found


def measure_zero(data: pathlib.Path | None = None) -> dict[str, Any]:
    """State on each of eight devices and what a step sends, without and with ZeRO."""
    del data
    context = multiprocessing.get_context("spawn")
    # A process of its own: how many devices there are is settled once a process.
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_measure_zero).result()


def _measure_zero() -> dict[str, Any]:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    mesh = jax.make_mesh((DEVICES,), ("data",))
    whole = NamedSharding(mesh, PartitionSpec())
    results: dict[str, Any] = {}
    for preset in PRESETS:
        params = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
            parameters(preset),
        )
        results[preset] = {name: _with_zero(name, params) for name in SPLIT}
    return {"devices": DEVICES, "presets": results}


def _with_zero(name: str, params: Any) -> dict[str, int]:
    build = BUILDS[name]
    split = lro.zero(build(), "data") if name == "adamw" else build(zero_axis="data")
    return {
        "whole": lro.memory_report(build(), params).device_bytes,
        "split": lro.memory_report(split, params).device_bytes,
        "sent": sent(SPLIT[name], params),
    }


def sent(formula: str, params: Any) -> int:
    """Bytes that a step with ZeRO gathers and sums for all matrices, gradients' average apart."""
    specs = lro.matrix_specs(params, QUARTER, dimension_numbers=matrix_dimension_numbers)
    return sum(
        math.prod(spec.batch) * _sent(formula, spec.m, spec.n, spec.rank)
        for spec in specs
        if spec is not None
    )


def _sent(formula: str, m: int, n: int, rank: int) -> int:
    if formula == "adamw":
        return FLOAT * m * n  # an elementwise optimizer gathers its update whole
    # A state whose rows do not divide is whole on every device, which then needs no other.
    return 0 if m % DEVICES else FORMULAS[formula](Split(m, n, rank, zero=DEVICES))


def beside_zero(results: dict[str, Any]) -> list[Outcome]:
    """Whether low rank saves anything where ZeRO already splits AdamW's state."""
    found = []
    for preset, methods in results["presets"].items():
        adamw = methods["adamw"]
        for name, row in methods.items():
            if name != "adamw":
                for what, label in (("split", "state a device"), ("sent", "sent a step")):
                    here = f"{row[what] / adamw[what]:.2f} of AdamW's {adamw[what] / 1e6:,.1f} MB"
                    verdict = HOLDS if row[what] < adamw[what] else FAILS
                    found.append(Outcome(f"{preset}, {name}: {label}", here, verdict))
    return found

"""One update of the matrices of a Llama's layer, in float32 and in bfloat16, beside AdamW's."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.accelerator.sizes import Size
from benchmarks.accelerator.timed import seconds
from benchmarks.measure.optimizers import Updater
from benchmarks.methods import EVERY_STEP, METHODS
from benchmarks.tables import markdown_table
from benchmarks.timing import median, ratio
from models.configs import LlamaConfig

DTYPES = ("float32", "bfloat16")


def items(size: Size, model: str) -> dict[str, Callable[[], dict[str, Any]]]:
    """One for every method."""
    config = size.models[model]
    rank = round(size.rank_fraction * config.hidden_size)
    return {name: functools.partial(measure, name, config, rank) for name in size.updated}


@functools.cache
def layer(config: LlamaConfig, dtype: str) -> dict[str, jax.Array]:
    """A layer's kernels (in, out), as random numbers that serve as gradients too.

    Apart, not stacked, because optax.contrib.galore takes no batches of matrices.
    """
    hidden, intermediate = config.hidden_size, config.intermediate_size
    heads, groups = (config.head_dim * n for n in (config.num_heads, config.num_kv_heads))
    shapes = {
        "q_proj": (hidden, heads),
        "k_proj": (hidden, groups),
        "v_proj": (hidden, groups),
        "o_proj": (heads, hidden),
        "gate_proj": (hidden, intermediate),
        "up_proj": (hidden, intermediate),
        "down_proj": (intermediate, hidden),
    }
    return {
        name: jax.random.normal(jax.random.key(i), shape, dtype)
        for i, (name, shape) in enumerate(shapes.items())
    }


def measure(name: str, config: LlamaConfig, rank: int) -> dict[str, Any]:
    """Both dtypes of a method and of AdamW, interleaved."""
    build = (METHODS | EVERY_STEP)[name]
    this = {f"this {dtype}": Updater(build(rank), layer(config, dtype)) for dtype in DTYPES}
    costs = ("compile_seconds", "temporary_bytes", "state_bytes")
    return {
        "rank": rank,
        "seconds": seconds(this | {f"adamw {dtype}": _adamw(config, dtype) for dtype in DTYPES}),
        **{cost: {key: getattr(each, cost) for key, each in this.items()} for cost in costs},
    }


@functools.cache
def _adamw(config: LlamaConfig, dtype: str) -> Updater:
    """One for all methods."""
    return Updater(METHODS["optax.adamw"](None), layer(config, dtype))


def table(results: dict[str, Any]) -> str:
    """A row per method; ratios with quartiles."""
    header = (
        *("method", "float32, µs", "/ adamw", "bfloat16, µs", "/ adamw", "float32 / bfloat16"),
        *(f"{cost}, {dtype}, MB" for dtype in DTYPES for cost in ("state", "temporaries")),
    )
    return markdown_table(header, [_row(*each) for each in results.items()])


def _row(name: str, result: dict[str, Any]) -> tuple[str, ...]:
    samples = result["seconds"]
    times = [
        cell
        for dtype in DTYPES
        for cell in (
            f"{1e6 * median(samples[f'this {dtype}']):.0f}",
            f"{ratio(samples, f'this {dtype}', f'adamw {dtype}'):.2f}",
        )
    ]
    sizes = [
        f"{result[cost][f'this {dtype}'] / 1e6:.2f}"
        for dtype in DTYPES
        for cost in ("state_bytes", "temporary_bytes")
    ]
    return (name, *times, f"{ratio(samples, 'this float32', 'this bfloat16'):.2f}", *sizes)

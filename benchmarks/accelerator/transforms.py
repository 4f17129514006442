"""The DCT of whole matrices as multiples of a copy: the table of arXiv 2505.17967."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.accelerator.sizes import Size
from benchmarks.accelerator.timed import seconds
from benchmarks.tables import markdown_table
from benchmarks.timing import median, ratio
from lowrank_optax import dct_matrix, orthogonal_dct

DTYPES = ("float32", "bfloat16")
AXES = {"rows": -1, "columns": -2}
METHODS = ("fft", "factored", "matmul")
STORED = "matmul, stored matrix"
"""As the papers do it: n² numbers that stay in memory."""


def items(size: Size) -> dict[str, Callable[[], dict[str, Any]]]:
    """One for every shape, dtype and axis."""
    return {
        f"{m} × {n} {dtype}, {along}": functools.partial(measure, (m, n), dtype, axis)
        for m, n in size.transformed
        for dtype in DTYPES
        for along, axis in AXES.items()
    }


def measure(shape: tuple[int, int], dtype: str, axis: int) -> dict[str, Any]:
    """Seconds of a copy, and of the transform by every method."""
    x = jax.random.normal(jax.random.key(0), shape, dtype)
    Q = jax.jit(functools.partial(dct_matrix, shape[axis], dtype))()
    programs = {"copy": functools.partial(jax.jit(jnp.copy), x)}
    for method in METHODS:
        transform = functools.partial(orthogonal_dct, axis=axis, method=method)
        programs[method] = functools.partial(jax.jit(transform), x)
    product = (lambda x, Q: x @ Q) if axis == -1 else (lambda x, Q: Q.T @ x)
    programs[STORED] = functools.partial(jax.jit(product), x, Q)
    return {"bytes": x.nbytes, "seconds": seconds(programs)}


def table(results: dict[str, Any]) -> str:
    """A row per item; transforms as multiples of the copy, with quartiles."""
    header = ("matrix, transformed", "copy, µs", *(f"{m} / copy" for m in (*METHODS, STORED)))
    rows = [
        (
            name,
            f"{1e6 * median(result['seconds']['copy']):.0f}",
            *(f"{ratio(result['seconds'], m, 'copy'):.1f}" for m in (*METHODS, STORED)),
        )
        for name, result in results.items()
    ]
    return markdown_table(header, rows)

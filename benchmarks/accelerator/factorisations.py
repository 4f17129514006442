"""Which factorisation an accelerator should take by default: singular subspaces, and QR."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.accelerator.sizes import Size
from benchmarks.accelerator.timed import seconds
from benchmarks.measure import svd
from benchmarks.tables import markdown_table
from benchmarks.timing import median, ratio
from lowrank_optax.linalg.orthogonalize import orthonormal_columns

QR_METHODS = ("qr", "cholesky_qr")


def items(size: Size) -> dict[str, Callable[[], dict[str, Any]]]:
    """Two for every shape."""
    subspaces = {f"svd {m} × {n}": functools.partial(singular, m, n) for m, n in size.factorised}
    bases = {
        f"qr {m} × {round(size.rank_fraction * n)}": functools.partial(
            orthonormal, m, round(size.rank_fraction * n)
        )
        for m, n in size.factorised
    }
    return bases | subspaces


def singular(m: int, n: int) -> dict[str, Any]:
    """Seconds of the leading right singular vectors by every method."""
    return {"reference": "exact", "seconds": seconds(svd.programs(m, n))}


def orthonormal(m: int, r: int) -> dict[str, Any]:
    """Seconds of an orthonormal basis of r columns by every method."""
    x = jax.random.normal(jax.random.key(0), (m, r))
    programs = {
        method: functools.partial(jax.jit(functools.partial(orthonormal_columns, method=method)), x)
        for method in QR_METHODS
    }
    return {"reference": "qr", "seconds": seconds(programs)}


def table(results: dict[str, Any]) -> str:
    """A row per matrix and method: milliseconds, and how many times faster than the exact one."""
    rows = [
        (
            name,
            method,
            f"{1e3 * median(samples):.2f}",
            f"{ratio(result['seconds'], result['reference'], method):.1f}",
        )
        for name, result in results.items()
        for method, samples in result["seconds"].items()
    ]
    return markdown_table(("matrix", "method", "ms", "times faster than the first"), rows)

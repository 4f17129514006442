"""Factorisations of stacked matrices that cannot hang on a CPU."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float

from lowrank_optax.linalg.devices import on_several_devices


def matrix_by_matrix(function: Callable[[Array], Any], A: Float[Array, "*batch m n"]) -> Any:
    """`function(A)` of stacked matrices, which on a CPU takes them one after the other.

    XLA's CPU kernels around LAPACK give parts of a batch to the threads that they run on
    themselves, and wait. Several of them at once can wait for each other for ever, if there are
    few threads (seen with two, for QR, eigenvectors and triangular solves, in jaxlib 0.10 and
    0.12). A kernel that has one matrix to work on gives nothing away.

    The result is a pytree of arrays with the same leading axes. Matrices spread over devices are
    left as one batch, for its parts must stay where they are.
    """
    batch = A.shape[:-2]
    if math.prod(batch) <= 1 or on_several_devices(A):
        return function(A)

    def one_after_the_other(A: Array) -> Any:
        results = jax.lax.map(function, A.reshape(-1, *A.shape[-2:]))
        return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), results)

    return jax.lax.platform_dependent(A, cpu=one_after_the_other, default=function)

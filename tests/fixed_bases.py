"""Every fixed orthogonal basis, and its columns chosen for a given matrix."""

import functools
from typing import Any

import jax
import pytest
import subspaces
from drawing import draw

from lowrank_optax import projections
from lowrank_optax.axes.projections.fixed import FixedBasis

BASES = {
    "dct": projections.dct,
    "dct III": functools.partial(projections.dct, kind="III"),
    "hadamard": projections.hadamard,
    "identity": projections.identity,
    "random_orthogonal": functools.partial(projections.random_orthogonal, seed=3),
}
QUICK = ("dct", "hadamard")
"""Of the others one is as the DCT, one its inverse, and one needs no transform."""

every_basis = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in BASES]
)
draw64 = functools.partial(draw, dtype="float64")


def at_work(
    name: str, G: jax.Array, rank: int, select: str = "l2"
) -> tuple[FixedBasis, jax.Array, Any, Any]:
    """A projection, the coefficients of G, and the basis and subspace that it chooses for them."""
    projection = BASES[name](rank, select)
    S = projection.analyze(G, G.dtype)
    basis = subspaces.chosen(projection, S, rank)
    return projection, S, basis, projection.subspace(basis, G.shape)

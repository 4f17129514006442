"""The projection axis: which r-dimensional subspace of the compressed axis."""

from lowrank_optax.projections.base import Projection
from lowrank_optax.projections.fixed import dct

__all__ = ["Projection", "dct"]

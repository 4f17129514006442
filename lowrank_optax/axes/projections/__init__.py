"""The projection axis: which r-dimensional subspace of the compressed axis."""

from lowrank_optax.axes.projections.base import Choice, Moment, Projection, Subspace, Transition
from lowrank_optax.axes.projections.combined import scheduled_rank, switch
from lowrank_optax.axes.projections.dct import dct, random_orthogonal
from lowrank_optax.axes.projections.fixed import FixedBasis, identity
from lowrank_optax.axes.projections.hadamard import hadamard
from lowrank_optax.axes.projections.learned import LearnedBasis
from lowrank_optax.axes.projections.named import by_name
from lowrank_optax.axes.projections.online_pca import online_pca
from lowrank_optax.axes.projections.power_iteration import power_iteration
from lowrank_optax.axes.projections.random import random
from lowrank_optax.axes.projections.svd import svd
from lowrank_optax.axes.projections.two_sided import two_sided

__all__ = [
    # The contract, and what to subclass
    "Choice",
    "FixedBasis",
    "LearnedBasis",
    "Moment",
    "Projection",
    "Subspace",
    "Transition",
    # Fixed bases
    "dct",
    "hadamard",
    "identity",
    "random_orthogonal",
    # Learned bases
    "online_pca",
    "power_iteration",
    "random",
    "scheduled_rank",
    "svd",
    "switch",
    # Both sides
    "two_sided",
    # Any of them
    "by_name",
]

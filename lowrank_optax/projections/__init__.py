"""The projection axis: which r-dimensional subspace of the compressed axis."""

from lowrank_optax.projections.alternating import alternating
from lowrank_optax.projections.base import Moment, Projection
from lowrank_optax.projections.dct import dct
from lowrank_optax.projections.fixed import FixedBasis
from lowrank_optax.projections.hadamard import hadamard
from lowrank_optax.projections.identity import identity
from lowrank_optax.projections.learned import LearnedBasis
from lowrank_optax.projections.named import by_name
from lowrank_optax.projections.online_pca import online_pca
from lowrank_optax.projections.power_iteration import power_iteration
from lowrank_optax.projections.random import random
from lowrank_optax.projections.random_orthogonal import random_orthogonal
from lowrank_optax.projections.scheduled_rank import scheduled_rank
from lowrank_optax.projections.svd import svd
from lowrank_optax.projections.two_sided import two_sided

__all__ = [
    # The contract, and what to subclass
    "FixedBasis",
    "LearnedBasis",
    "Moment",
    "Projection",
    # Fixed bases
    "dct",
    "hadamard",
    "identity",
    "random_orthogonal",
    # Learned bases
    "alternating",
    "online_pca",
    "power_iteration",
    "random",
    "scheduled_rank",
    "svd",
    # Both sides
    "two_sided",
    # Any of them
    "by_name",
]

"""The named methods: each a recipe over the engine, ready for any pytree of parameters."""

from lowrank_optax.optimizers.alice0 import alice0
from lowrank_optax.optimizers.apollo import apollo, apollo_mini
from lowrank_optax.optimizers.dct_adamw import dct_adamw
from lowrank_optax.optimizers.dion import dion, scale_by_dion
from lowrank_optax.optimizers.dion2 import dion2, dion3
from lowrank_optax.optimizers.fira import fira
from lowrank_optax.optimizers.frugal import frugal
from lowrank_optax.optimizers.galore import galore, golore
from lowrank_optax.optimizers.ldadamw import ldadamw
from lowrank_optax.optimizers.low_rank import low_rank
from lowrank_optax.optimizers.muon import muon, normuon
from lowrank_optax.optimizers.online_subspace_descent import online_subspace_descent
from lowrank_optax.optimizers.tandem import tandem
from lowrank_optax.optimizers.trion import scale_by_trion, trion

__all__ = [
    "alice0",
    "apollo",
    "apollo_mini",
    "dct_adamw",
    "dion",
    "dion2",
    "dion3",
    "fira",
    "frugal",
    "galore",
    "golore",
    "ldadamw",
    "low_rank",
    "muon",
    "normuon",
    "online_subspace_descent",
    "scale_by_dion",
    "scale_by_trion",
    "tandem",
    "trion",
]

"""Meshes: what is where, and how little has to move."""

from lowrank_optax.sharding.sides import unsharded_sides
from lowrank_optax.sharding.state import state_shardings, with_shardings
from lowrank_optax.sharding.zero import zero

__all__ = ["state_shardings", "unsharded_sides", "with_shardings", "zero"]

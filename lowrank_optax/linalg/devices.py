"""Whether arrays may be spread over several devices, and over which mesh."""

from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding

AnyMesh = Mesh | AbstractMesh


def mesh_of(tree: Any) -> AnyMesh | None:
    """The mesh that a tree's arrays are spread over, else the one set by `jax.set_mesh`.

    Returns:
      None if there is no mesh, or inside `jax.shard_map`, where every device
      works on arrays of its own. A concrete mesh for arrays on one, else an abstract one.

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.linalg.devices import mesh_of
      >>> mesh_of({"w": jnp.ones(2)}) is None
      True
    """
    leaves = jax.tree.leaves(tree)
    meshes = [sharding.mesh for leaf in leaves if (sharding := sharding_of(leaf)) is not None]
    context = jax.sharding.get_abstract_mesh()
    for mesh in (*meshes, context):
        if not mesh.empty:
            return None if AxisType.Manual in mesh.axis_types else mesh
    return None


def on_several_devices(tree: Any) -> bool:
    """Whether a tree's arrays may be spread over devices, by their types or a mesh that is set."""
    mesh = mesh_of(tree)
    return mesh is not None and mesh.size > 1


def sharding_of(leaf: Any) -> NamedSharding | None:
    """An array's sharding, if it is on a mesh."""
    if isinstance(leaf, jax.core.Tracer):
        sharding = jax.typeof(leaf).sharding
    else:
        sharding = getattr(leaf, "sharding", None)
    is_on_mesh = isinstance(sharding, NamedSharding) and not sharding.mesh.empty
    return sharding if is_on_mesh else None

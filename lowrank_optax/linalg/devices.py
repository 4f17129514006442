"""Whether arrays may be spread over several devices, and what follows for mathematics on them."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

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


def has_explicit(mesh: AnyMesh | None) -> bool:
    """Whether some axes of a mesh are `Explicit`."""
    return mesh is not None and AxisType.Explicit in mesh.axis_types


def typed_spec(leaf: Any) -> PartitionSpec:
    """How an array is partitioned over the axes that its type, or the array itself, tells."""
    sharding = sharding_of(leaf)
    spec = () if sharding is None else tuple(sharding.spec)
    return PartitionSpec(*spec, *[None] * (len(leaf.shape) - len(spec)))


def in_auto_axes(function: Callable[[Array], Array], x: Array) -> Array:
    """`function(x)`, of x's shape, spread as x is, also where mesh axes are `Explicit`.

    There every operation must say where its result is, and a product of two arrays with sharded
    rows is an error. Inside, the compiler decides.

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.linalg.devices import in_auto_axes
      >>> in_auto_axes(lambda x: x.T @ x, jnp.eye(2)).tolist()
      [[1.0, 0.0], [0.0, 1.0]]
    """
    mesh = mesh_of(x)
    if mesh is None or not has_explicit(mesh):
        return function(x)
    in_auto = jax.sharding.auto_axes(function, out_sharding=typed_spec(x))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        # Jitted, for outside of a trace arrays keep the axes that they have.
        return jax.jit(in_auto)(x)


def sharding_of(leaf: Any) -> NamedSharding | None:
    """An array's sharding, if it is on a mesh."""
    if isinstance(leaf, jax.core.Tracer):
        sharding = jax.typeof(leaf).sharding
    else:
        sharding = getattr(leaf, "sharding", None)
    is_on_mesh = isinstance(sharding, NamedSharding) and not sharding.mesh.empty
    return sharding if is_on_mesh else None

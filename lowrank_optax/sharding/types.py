"""What an array's type, or the array itself, says about where its parts are.

Under a mesh with `Explicit` axes the sharding is part of the type, so it is known while a function
is traced. Under `Auto` axes the compiler decides: the type names the mesh only, and nothing but a
concrete array knows its sharding.
"""

import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from lowrank_optax.linalg.devices import (
    AnyMesh,
    has_explicit,
    mesh_of,
    on_several_devices,
    sharding_of,
    typed_spec,
)

__all__ = [
    "AnyMesh",
    "axes_of",
    "has_explicit",
    "is_traced",
    "mesh_of",
    "on_several_devices",
    "shards",
    "spec_of",
    "typed_spec",
    "with_axis_types",
]


def is_traced(tree: Any) -> bool:
    """Whether a tree holds tracers, so that the function that it is in is being compiled."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def with_axis_types(mesh: AnyMesh, kind: AxisType) -> AbstractMesh:
    """The mesh without its devices and with all axes of one kind."""
    abstract = mesh.abstract_mesh
    return abstract.update(axis_types=(kind,) * len(abstract.axis_names))


def spec_of(leaf: Any) -> PartitionSpec | None:
    """How an array is partitioned, as far as it can be known here.

    Args:
      leaf: array, tracer or `jax.ShapeDtypeStruct`.

    Returns:
      Its partition with one entry per axis; None if only the compiler will know it, which is so
      for a traced array under `Auto` mesh axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.sharding.types import spec_of
      >>> spec_of(jnp.ones((2, 3)))
      P(None, None)
    """
    sharding = sharding_of(leaf)
    mesh = jax.sharding.get_abstract_mesh() if sharding is None else sharding.mesh
    if isinstance(leaf, jax.core.Tracer) and mesh.size > 1 and AxisType.Auto in mesh.axis_types:
        return None
    return typed_spec(leaf)


def axes_of(entry: Any) -> tuple[str, ...]:
    """The mesh axes in one entry of a partition.

    Example:
      >>> from lowrank_optax.sharding.types import axes_of
      >>> axes_of(None), axes_of("data"), axes_of(("data", "fsdp"))
      ((), ('data',), ('data', 'fsdp'))
    """
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


def shards(mesh: AnyMesh, axes: tuple[str, ...]) -> int:
    """Number of parts that mesh axes split something into."""
    return math.prod(mesh.shape[axis] for axis in axes)

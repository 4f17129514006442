"""What an array's type, or the array itself, says about where its parts are."""

import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from lowrank_optax.linalg.devices import AnyMesh, sharding_of, typed_spec


def is_traced(tree: Any) -> bool:
    """Whether a tree holds tracers, so that the function that it is in is being compiled."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def with_axis_types(mesh: AnyMesh, kind: AxisType) -> AbstractMesh:
    """The mesh without its devices and with all axes of one kind."""
    abstract = mesh.abstract_mesh
    return abstract.update(axis_types=(kind,) * len(abstract.axis_names))


def spec_of(leaf: Any) -> PartitionSpec | None:
    """How an array is partitioned, one entry per axis; None if only the compiler will know it.

    That is so for a traced array under `Auto` mesh axes. Under `Explicit` ones the sharding is part
    of the type.
    """
    sharding = sharding_of(leaf)
    mesh = jax.sharding.get_abstract_mesh() if sharding is None else sharding.mesh
    if isinstance(leaf, jax.core.Tracer) and mesh.size > 1 and AxisType.Auto in mesh.axis_types:
        return None
    return typed_spec(leaf)


def axes_of(entry: Any) -> tuple[str, ...]:
    """The mesh axes in one entry of a partition."""
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


def one_each(name: str, given: Any, params: Any, kinds: Any) -> Any:
    """One sharding per parameter, of a tree or a prefix of one; a TypeError for other kinds."""
    for sharding in jax.tree.leaves(given):
        if not isinstance(sharding, kinds):
            raise TypeError(
                f"{name} holds {sharding!r}; give a NamedSharding(mesh, PartitionSpec(…)) "
                "per parameter, or one for all."
            )
    return jax.tree.broadcast(given, params)


def shards(mesh: AnyMesh, axes: tuple[str, ...]) -> int:
    """Number of parts that mesh axes split something into."""
    return math.prod(mesh.shape[axis] for axis in axes)

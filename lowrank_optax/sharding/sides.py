"""Which side of every matrix is whole on its devices."""

from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from lowrank_optax.core.dimension_numbers import DimensionNumbers
from lowrank_optax.core.matrices import MatrixSpec, matrix_specs
from lowrank_optax.sharding.types import axes_of, one_each

_PLACES = (NamedSharding, PartitionSpec)


def unsharded_sides(
    params: Any, shardings: Any, *, dimension_numbers: DimensionNumbers = None
) -> Any:
    """For `compress`: the side of every matrix that is not split over devices.

    Then no device needs another one's part of the compressed axis. It is the smaller side if
    neither or both are split.

    Args:
      params: pytree of arrays, or of `jax.ShapeDtypeStruct`.
      shardings: pytree (or prefix) like it of `NamedSharding` or `PartitionSpec`.
      dimension_numbers: which leaves are matrices, as for `matrix_specs`.

    Returns:
      A pytree like `params` of "in" or "out", and None for leaves that are no matrices.

    Raises:
      TypeError: if a sharding is of another type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jax.sharding import PartitionSpec as P
      >>> import lowrank_optax as lro
      >>> params = {"w": jnp.ones((4, 8))}  # the in side is the smaller one
      >>> lro.unsharded_sides(params, {"w": P("fsdp", None)})
      {'w': 'out'}
    """
    table = matrix_specs(params, dimension_numbers=dimension_numbers)
    partitions = jax.tree.leaves(one_each("shardings", shardings, params, _PLACES))
    sides = [
        None if spec is None else _side(spec, sharding)
        for spec, sharding in zip(table, partitions, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(params), sides)


def _side(spec: MatrixSpec, sharding: NamedSharding | PartitionSpec) -> str:
    entries = tuple(sharding.spec if isinstance(sharding, NamedSharding) else sharding)
    entries += (None,) * (len(spec.leaf_shape) - len(entries))
    entries = spec.by_axis(entries)
    is_split = lambda axes: any(axes_of(entries[axis]) for axis in axes)
    if is_split(spec.n_axes) and not is_split(spec.m_axes):
        return "out" if spec.side == "in" else "in"
    return spec.side

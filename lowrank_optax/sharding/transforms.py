"""Orthogonal transforms of arrays that are spread over devices.

XLA gathers the operand of an FFT whole onto every device, whichever axes are split (JAX 0.10), and
adds up or gathers whole products where the transformed axis of a matrix product is split. The
transform is made one operation here that the compiler is told how to split: every device transforms
the columns that it has. If the transformed axis itself is split, the devices that share columns
exchange them (all-to-all), so that each transforms some of them whole, and exchange the
coefficients back; nothing is gathered.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jaxtyping import Array, DTypeLike, Float

from lowrank_optax.linalg.devices import in_auto_axes, mesh_of, typed_spec
from lowrank_optax.sharding.types import axes_of, shards

Transform = Callable[[Array], Array]


def transform_columns(
    transform: Transform, inverse: Transform, x: Float[Array, "*batch n m"]
) -> Float[Array, "*batch n m"]:
    """`transform(x)` of an orthogonal map of the second-to-last axis, never gathered.

    Where there is no mesh, or inside `jax.shard_map`, this is `transform(x)`. The gradient is
    the inverse (there is no forward mode), and `jax.vmap` adds a leading batch axis. A transform
    that is the same object every time is traced once for every shape; it may change the dtype.

    Returns:
      The coefficients, split as x is, in whichever way that is.
    """
    mesh = mesh_of(x)
    if mesh is None or mesh.size == 1:
        return transform(x)
    # Not under Explicit axes: the types would reach the compiler's own operations, which have none.
    split = functools.partial(_linear, transform=transform, inverse=inverse)
    return in_auto_axes(split, x)


@functools.partial(jax.jit, static_argnames=("transform", "inverse"))
def _linear(x: Array, *, transform: Transform, inverse: Transform) -> Array:
    """The operation with its transpose, for `custom_partitioning` has no derivative."""

    @jax.custom_vjp
    def operation(x: Array) -> Array:
        return _split(transform, x)

    def forwards(x: Array) -> tuple[Array, None]:
        return operation(x), None

    def backwards(_: None, y: Array) -> tuple[Array]:
        return (_linear(y, transform=inverse, inverse=transform).astype(x.dtype),)

    operation.defvjp(forwards, backwards)
    return operation(x)


def _split(transform: Transform, x: Array) -> Array:
    # Jitted, for custom_partitioning takes no function with constants of its own.
    operation = custom_partitioning(lambda x: jax.jit(transform)(x))
    operation.def_partition(_partition_rule(transform), sharding_rule="... n m -> ... n m")
    batched = custom_vmap(operation)

    @batched.def_vmap
    def _with_leading_axis(size: int, is_mapped: list[bool], x: Array) -> tuple[Array, bool]:
        del size, is_mapped
        return batched(x), True

    return batched(x)


def _partition_rule(transform: Transform) -> Callable[..., tuple[Any, ...]]:
    def partition(mesh: Mesh, operands: tuple[Any], result: Any) -> tuple[Any, ...]:
        """What one device does, and how operand and result are split then: both as it came."""
        del result
        (x,) = operands
        axes: tuple[str, ...] = ()
        sharding = x.sharding
        if mesh.empty:  # no array of the program has a place, so nothing splits this one
            assert sharding.is_fully_replicated
        else:
            spec = typed_spec(x)
            axes = axes_of(spec[-2])
            sharding = NamedSharding(mesh, spec)

        def on_one_device(part: Array) -> Array:
            # Compiling may happen under `jax.set_mesh`, whose shardings mean nothing here.
            with jax.sharding.use_abstract_mesh(AbstractMesh((), ())), _wide_if(part.dtype):
                if not axes:
                    return transform(part)
                return _with_whole_columns(transform, part, x.shape[-2], axes, shards(mesh, axes))

        return mesh, on_one_device, sharding, (sharding,)

    return partition


def _with_whole_columns(
    transform: Transform, part: Array, n: int, axes: tuple[str, ...], devices: int
) -> Array:
    """Transforms columns of which every device has a part, and returns this device's part.

    A part is of length ceil(n / devices), padded at the end; `axes` split the columns.
    """
    others = [axis for axis in range(part.ndim) if axis != part.ndim - 2]
    count = part.shape[-1]
    divided = next((axis for axis in reversed(others) if part.shape[axis] % devices == 0), None)
    if divided is None:
        # Columns of zeros make up a multiple of the devices. (A gather sends less for a lone column
        # only, and XLA's CPU backend fails where it lays one out for an FFT.)
        divided = part.ndim - 1
        part = _padded(part, -1, count + -count % devices)
    exchange = functools.partial(jax.lax.all_to_all, axis_name=axes, tiled=True)
    whole = exchange(part, split_axis=divided, concat_axis=part.ndim - 2)
    transformed = _padded(transform(whole[..., :n, :]), -2, whole.shape[-2])
    return exchange(transformed, split_axis=part.ndim - 2, concat_axis=divided)[..., :count]


def _padded(x: Array, axis: int, length: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, length - x.shape[axis])
    return jnp.pad(x, widths)


def _wide_if(dtype: DTypeLike) -> AbstractContextManager[Any]:
    """Allows 64 bits where they are there: the compiler asks for the parts in a thread of its own,
    outside of a caller's `jax.enable_x64`."""
    return jax.enable_x64(jnp.dtype(dtype).itemsize == 8)

"""Whether arrays may be spread over several devices, and what devices mean for mathematics."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

AnyMesh = Mesh | AbstractMesh


def mesh_of(tree: Any) -> AnyMesh | None:
    """The mesh that a tree's arrays are spread over, else the one set by `jax.set_mesh`.

    None if there is none, or inside `jax.shard_map`, where every device works on arrays of its own.
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


def matrix_by_matrix(function: Callable[[Array], Any], A: Float[Array, "*batch m n"]) -> Any:
    """A factorisation of stacked matrices, which on a CPU takes them one after the other.

    XLA's CPU kernels around LAPACK give parts of a batch to the threads that they run on
    themselves, and wait. Several of them at once can wait for each other for ever, if there are
    few threads (seen with two, for QR, eigenvectors and triangular solves, in jaxlib 0.10 and
    0.12). A kernel that has one matrix to work on gives nothing away.

    The result is a pytree of arrays with the same leading axes. Matrices spread over devices are
    left as one batch, for its parts must stay where they are.
    """
    batch = A.shape[:-2]
    if math.prod(batch) <= 1 or on_several_devices(A):
        return function(A)

    def one_after_the_other(A: Array) -> Any:
        results = jax.lax.map(function, A.reshape(-1, *A.shape[-2:]))
        return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), results)

    return jax.lax.platform_dependent(A, cpu=one_after_the_other, default=function)


def mean_over(x: Float[Array, "*shape"], axis: str | None) -> Float[Array, "*shape"]:
    """The mean of x over the devices along an axis of `jax.shard_map`; x itself for None."""
    if axis is None:
        return x
    try:
        return jax.lax.pmean(x, axis)
    except NameError as error:
        raise ValueError(
            f"sync='low_rank' averages over the devices along the axis {axis!r}, and there is no "
            f"such axis here: call update inside jax.shard_map over a mesh with the axis {axis!r}, "
            "with every device's own gradient, or name another sync_axis."
        ) from error


def largest(
    scores: Float[Array, "*batch n"], count: int
) -> tuple[Float[Array, "*batch k"], Int[Array, "*batch k"]]:
    """The `count` largest entries of the last axis in descending order, and where they are.

    What `jax.lax.top_k` returns, by a sort: XLA gathers the operand of a top-k from all devices,
    even where only the axes before the last are sharded, and sorts every row where it is.
    """
    positions = jnp.broadcast_to(jnp.arange(scores.shape[-1], dtype=jnp.int32), scores.shape)
    negative, order = jax.lax.sort((-scores, positions), is_stable=True, num_keys=1)
    return -negative[..., :count], order[..., :count]

"""Running mathematics that leaves the placing of its intermediate results to the compiler."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lowrank_optax.sharding.types import (
    AnyMesh,
    has_explicit,
    is_traced,
    mesh_of,
    typed_spec,
    with_axis_types,
)


def run_in_auto(
    function: Callable[..., Any],
    partitions: Callable[[], Any],
    mesh: AnyMesh | None,
    *arguments: Any,
) -> Any:
    """`function(*arguments)`, traced under `Auto` mesh axes whatever the caller's are.

    Under `Explicit` axes every operation must say where its result is: a product of two arrays
    with sharded rows, or a batched factorisation, is an error. Inside, the compiler decides, and
    the results leave with the partitions that the caller expects. What the function closes over
    keeps the caller's types, so everything that may be traced has to be an argument.

    Args:
      function: of `arguments`; returns a pytree of arrays.
      partitions: returns a pytree of `PartitionSpec` like what the function returns; asked under
        `Explicit` axes only.
      mesh: the mesh.
      *arguments: pytrees; leaves that are no arrays are passed on as they are.
    """
    if not has_explicit(mesh):
        return function(*arguments)
    assert mesh is not None
    arrays, merge = arrays_apart(arguments)
    of_arrays = lambda arrays: function(*merge(arrays))
    run = jax.sharding.auto_axes(of_arrays, out_sharding=partitions())
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        # Outside of a trace arrays keep the axes that they have: `Explicit`.
        return run(arrays) if is_traced(arrays) else jax.jit(run)(arrays)


def arrays_apart(tree: Any) -> tuple[dict[int, Any], Callable[[dict[int, Any]], Any]]:
    """A pytree's arrays, and the function that puts such arrays in among its other leaves.

    Example:
      >>> import jax.numpy as jnp
      >>> from lowrank_optax.sharding.regions import arrays_apart
      >>> arrays, merge = arrays_apart({"x": jnp.ones(2), "y": "text"})
      >>> merge({i: 2 * array for i, array in arrays.items()})
      {'x': Array([2., 2.], dtype=float32), 'y': 'text'}
    """
    leaves, treedef = jax.tree.flatten(tree)
    arrays = {i: leaf for i, leaf in enumerate(leaves) if hasattr(leaf, "dtype")}

    def merge(arrays: dict[int, Any]) -> Any:
        merged = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(treedef, merged)

    return arrays, merge


def retyped_like(new: Any, old: Any) -> Any:
    """A pytree of arrays with the types of another one, for mesh axes that are `Explicit`."""

    def retyped(x: Any, like: Any) -> Any:
        mesh = mesh_of(like)
        if mesh is None or not has_explicit(mesh) or typed_spec(x) == typed_spec(like):
            return x
        return jax.sharding.reshard(x, NamedSharding(mesh, typed_spec(like)))

    return jax.tree.map(retyped, new, old)


def initialise(
    init: Callable[[Any], Any],
    params: Any,
    mesh: AnyMesh | None,
    partition: Callable[[Any], Any],
    *,
    constrain: bool,
) -> Any:
    """`init(params)` with every array of the state made where it belongs.

    Args:
      init: makes a state from the parameters' shapes and dtypes.
      params: the parameters.
      mesh: their mesh.
      partition: from the state's shapes to a pytree of `PartitionSpec` like it.
      constrain: whether the partitions hold more than follows from the parameters', so that the
        compiler must be told even where it knows theirs and we do not.
    """
    if mesh is None:
        return init(params)
    # Of plain shapes: what types would do to the work of `init` is what this is to avoid.
    plain = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    partitions = partition(jax.eval_shape(init, plain))
    if isinstance(mesh, Mesh) and not is_traced(params):
        # Compiled, so that no device ever holds whole what is to be split.
        shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), partitions)
        run = lambda params: run_in_auto(init, lambda: partitions, mesh, params)
        return jax.jit(run, out_shardings=shardings)(params)
    if has_explicit(mesh) or not constrain:
        return run_in_auto(init, lambda: partitions, mesh, params)
    return jax.tree.map(lambda x, spec: place(x, mesh, spec), init(params), partitions)


def place(x: jax.Array, mesh: AnyMesh, spec: PartitionSpec) -> jax.Array:
    """Where an array is to be: told to the compiler under `Auto` axes, moved under `Explicit`."""
    if mesh.size == 1:
        return x
    if has_explicit(jax.typeof(x).sharding.mesh):
        return jax.sharding.reshard(x, NamedSharding(mesh, spec))
    if is_traced(x):
        target: AnyMesh = with_axis_types(mesh, AxisType.Auto)
    else:
        target = mesh if isinstance(mesh, Mesh) else jax.sharding.get_mesh()
    return jax.lax.with_sharding_constraint(x, NamedSharding(target, spec))

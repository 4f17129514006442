"""Running mathematics that leaves the placing of its intermediate results to the compiler."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lowrank_optax.linalg.devices import AnyMesh, has_explicit, mesh_of, typed_spec
from lowrank_optax.sharding.types import is_traced, with_axis_types


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

    `partitions` returns a pytree of `PartitionSpec` like what the function returns, and is asked
    under `Explicit` axes only.
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
    """A pytree's arrays, and the function that puts such arrays in among its other leaves."""
    leaves, treedef = jax.tree.flatten(tree)
    arrays = {i: leaf for i, leaf in enumerate(leaves) if hasattr(leaf, "dtype")}

    def merge(arrays: dict[int, Any]) -> Any:
        merged = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(treedef, merged)

    return arrays, merge


def retyped_like(new: Any, old: Any) -> Any:
    """A pytree of arrays with the types of another one, for mesh axes that are `Explicit`."""

    def retyped(x: Any, like: Any) -> Any:
        mesh, spec = mesh_of(like), typed_spec(like)
        if mesh is None or not has_explicit(mesh) or typed_spec(x) == spec:
            return x
        return jax.sharding.reshard(x, NamedSharding(mesh, spec))

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

    `partition` makes a pytree of `PartitionSpec` of the state's shapes; with `constrain` these hold
    more than follows from the parameters', so that the compiler must be told even where it knows
    theirs and we do not.
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
    return place(init(params), mesh, partitions)


def place(tree: Any, mesh: AnyMesh | None, partitions: Any) -> Any:
    """Where arrays are to be: told to the compiler under `Auto` axes, moved under `Explicit`."""
    if mesh is None or mesh.size == 1:
        return tree

    def placed(x: Any, spec: PartitionSpec) -> Any:
        if has_explicit(jax.typeof(x).sharding.mesh):
            return jax.sharding.reshard(x, NamedSharding(mesh, spec))
        if is_traced(x):
            target: AnyMesh = with_axis_types(mesh, AxisType.Auto)
        else:
            target = mesh if isinstance(mesh, Mesh) else jax.sharding.get_mesh()
        return jax.lax.with_sharding_constraint(x, NamedSharding(target, spec))

    return jax.tree.map(placed, tree, partitions)

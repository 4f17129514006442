"""Shardings of an optimizer's state, and optimizers that know those of their parameters."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lowrank_optax.core.trees import path_string
from lowrank_optax.linalg.devices import has_explicit, mesh_of, typed_spec
from lowrank_optax.sharding.regions import arrays_apart
from lowrank_optax.sharding.types import is_traced, one_each, with_axis_types


def state_shardings(
    tx: optax.GradientTransformation,
    params: Any,
    param_shardings: Any,
    *,
    memory_kind: str | None = None,
) -> Any:
    """Where every array of an optimizer's state belongs, given where the parameters are.

    Nothing is allocated: `tx.init` is traced with the shardings as part of the parameters' types,
    and says by the types of its result where that is. So it works for any optax transformation;
    for those of this library a low-rank array (r, m) is split as its matrix' m is, a basis (n, r)
    as n, and where a transform mixes the compressed n, m is split over n's mesh axes as well.

    Args:
      tx: the optimizer.
      params: pytree of arrays, or of `jax.ShapeDtypeStruct`.
      param_shardings: pytree (or prefix) of `NamedSharding`, all on one mesh.
      memory_kind: kind of memory that the state is kept in, such as "pinned_host"; None for the
        devices' default.

    Returns:
      A pytree of `NamedSharding` like `tx.init(params)`: for `jax.jit(tx.init, out_shardings=…)`,
      for the training step, and for restoring a checkpoint.

    Raises:
      TypeError, ValueError: if a sharding is not a `NamedSharding`, is on another mesh than the
        others, or does not fit its parameter's shape.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jax.sharding import NamedSharding, PartitionSpec as P
      >>> import lowrank_optax as lro
      >>> mesh = jax.make_mesh((1,), ("fsdp",))
      >>> params = {"w": jax.ShapeDtypeStruct((4, 8), jnp.float32)}
      >>> tx = lro.scale_by_trion(rank=2)
      >>> shardings = lro.state_shardings(tx, params, NamedSharding(mesh, P(None, "fsdp")))
      >>> shardings.residual["w"].spec  # DCT coefficients (n, m) = (4, 8)
      P(None, 'fsdp')
    """
    mesh, structs = _typed(params, param_shardings)
    with jax.sharding.use_abstract_mesh(with_axis_types(mesh, AxisType.Explicit)):
        state = jax.eval_shape(tx.init, structs)
    return jax.tree.map(
        lambda leaf: NamedSharding(mesh, typed_spec(leaf), memory_kind=memory_kind), state
    )


def with_shardings(
    tx: optax.GradientTransformation, param_shardings: Any
) -> optax.GradientTransformationExtraArgs:
    """Tell an optimizer under `Auto` mesh axes where its parameters are.

    Under `Explicit` axes types say it. Under `Auto` axes the compiler alone knows, which suffices
    but for splitting the state of parameters that are split already over one more axis
    (`zero_axis`). The optimizer is traced as if the axes were `Explicit`. It belongs outermost:
    inside `optax.inject_hyperparams` the injected numbers are of the axes outside.

    Args:
      tx: the optimizer.
      param_shardings: pytree (or prefix) of `NamedSharding`, all on one mesh with `Auto` axes.

    Returns:
      The optimizer for parameters and gradients with these shardings.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
      >>> import lowrank_optax as lro
      >>> mesh = jax.make_mesh((1,), ("fsdp",), axis_types=(AxisType.Auto,))
      >>> sharding = NamedSharding(mesh, P("fsdp", None))
      >>> tx = lro.with_shardings(lro.trion(0.02, rank=2, zero_axis="fsdp"), sharding)
      >>> state = jax.jit(tx.init)({"w": jnp.ones((4, 8))})
    """
    tx = optax.with_extra_args_support(tx)

    def init(params: Any) -> Any:
        if has_explicit(mesh_of(params)):
            return tx.init(params)
        shardings = one_each("param_shardings", param_shardings, params, NamedSharding)
        places = state_shardings(tx, params, shardings)
        typed_init = lambda params: _typed_call(tx.init, (params, shardings))
        return jax.jit(typed_init, out_shardings=places)(params)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        if has_explicit(mesh_of(updates)):
            return tx.update(updates, state, params, **extra_args)
        shardings = one_each("param_shardings", param_shardings, updates, NamedSharding)
        places = state_shardings(tx, updates if params is None else params, shardings)
        # Such as the loss: numbers, which are everywhere; and perhaps functions.
        extra, merge = arrays_apart(extra_args)
        new_updates, new_state = _typed_call(
            lambda updates, state, params, extra: tx.update(updates, state, params, **merge(extra)),
            (updates, shardings),
            (state, places),
            (params, None if params is None else shardings),
            (extra, dict.fromkeys(extra, NamedSharding(_common_mesh(shardings), PartitionSpec()))),
        )
        constrain = jax.lax.with_sharding_constraint
        return (
            jax.tree.map(constrain, new_updates, shardings),
            jax.tree.map(constrain, new_state, places),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _typed_call(function: Callable[..., Any], *arguments: tuple[Any, Any]) -> Any:
    """`function` of the first of each pair, with the shardings in the second as their types."""
    mesh = _common_mesh([shardings for _, shardings in arguments])
    values = [value for value, _ in arguments]
    specs = tuple(
        jax.tree.map(lambda sharding: sharding.spec, shardings) for _, shardings in arguments
    )
    typed = jax.sharding.explicit_axes(function, in_sharding=specs)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return typed(*values) if is_traced(values) else jax.jit(typed)(*values)


def _typed(params: Any, param_shardings: Any) -> tuple[Mesh, Any]:
    """The mesh, and the parameters' shapes with their shardings as types."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    shardings = jax.tree.leaves(one_each("param_shardings", param_shardings, params, NamedSharding))
    mesh = _common_mesh(shardings)
    explicit = with_axis_types(mesh, AxisType.Explicit)
    structs = []
    for (path, leaf), sharding in zip(leaves, shardings, strict=True):
        try:
            sharding.shard_shape(leaf.shape)
        except ValueError as error:
            raise ValueError(
                f"{path_string(path)} of shape {tuple(leaf.shape)} cannot be split as "
                f"{sharding.spec} on the mesh {dict(mesh.shape)}: {error}"
            ) from error
        typed = NamedSharding(explicit, sharding.spec)
        structs.append(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=typed))
    return mesh, jax.tree.unflatten(jax.tree.structure(params), structs)


def _common_mesh(shardings: Any) -> Mesh:
    meshes = {sharding.mesh for sharding in jax.tree.leaves(shardings)}
    if len(meshes) != 1:
        raise ValueError(
            f"param_shardings name {len(meshes)} different meshes; put all parameters on one mesh."
        )
    mesh = meshes.pop()
    assert isinstance(mesh, Mesh)
    return mesh

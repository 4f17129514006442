"""ZeRO-1: the state of parameters that every device holds, split over devices."""

from typing import Any

import jax
import optax
from jax.sharding import PartitionSpec

from lowrank_optax.linalg.devices import AnyMesh, mesh_of
from lowrank_optax.sharding.owners import state_owners
from lowrank_optax.sharding.regions import initialise, place
from lowrank_optax.sharding.types import axes_of, shards, spec_of


def zero_axes(zero_axis: Any, mesh: AnyMesh | None) -> tuple[str, ...]:
    """The mesh axes that `zero_axis` names, () without a mesh: one device has nothing to split."""
    names = axes_of(zero_axis)
    if mesh is None:
        return ()
    for name in names:
        if name not in mesh.axis_names:
            raise ValueError(
                f"zero_axis={zero_axis!r} is not an axis of the mesh {dict(mesh.shape)}; use one "
                f"of {mesh.axis_names}, or None to keep the state whole."
            )
    return names


def zero(tx: optax.GradientTransformation, axis: Any) -> optax.GradientTransformationExtraArgs:
    """Split the state and the work of an elementwise optimizer over a mesh axis (ZeRO-1).

    Every array like a parameter is split along its largest axis that divides evenly; where none
    does, it stays whole. The updates are gathered. The optimizers of this library do better by
    their own `zero_axis`: of a matrix they gather the low-rank update.

    Args:
      tx: an optimizer that treats every entry by itself, such as `optax.adamw`.
      axis: a mesh axis, or several; None returns `tx` as it is.

    Returns:
      The optimizer with the same state, spread out.

    Raises:
      ValueError: at `init` or `update`, if the mesh has no such axis.

    Reference:
      arXiv 1910.02054, section 5.1.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import lowrank_optax as lro
      >>> tx = lro.zero(optax.adamw(1e-3), "data")  # without a mesh it changes nothing
      >>> state = tx.init({"w": jnp.ones((8, 4))})
    """
    tx = optax.with_extra_args_support(tx)
    if axis is None:
        return tx

    def init(params: Any) -> Any:
        split = _Split(tx.init, params, axis)
        return initialise(tx.init, params, split.mesh, split.partitions, constrain=True)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        split = _Split(tx.init, updates, axis)
        if split.mesh is None:
            return tx.update(updates, state, params, **extra_args)
        near = None if params is None else split.placed(params, split.parts)
        updates, state = tx.update(split.placed(updates, split.parts), state, near, **extra_args)
        gathered = split.placed(updates, split.whole)
        return gathered, place(state, split.mesh, split.partitions(state))

    return optax.GradientTransformationExtraArgs(init, update)


class _Split:
    """How every parameter, and what is like it, is split."""

    def __init__(self, init: Any, params: Any, axis: Any):
        self.init = init
        self.mesh = mesh_of(params)
        self.params = params
        axes = zero_axes(axis, self.mesh)
        leaves, treedef = jax.tree.flatten(params)
        self.treedef: Any = treedef
        self.parts, self.whole = [], []
        for leaf in leaves:
            whole = _whole(leaf)
            part = _split_further(leaf.shape, whole, axes, self.mesh)
            self.parts.append(part)
            # What is not split further stays where it is.
            self.whole.append(None if part == whole else whole)

    def partitions(self, state: Any) -> Any:
        params, arrays = jax.tree.leaves(self.params), jax.tree.leaves(state)

        def partition(i: int | None, array: Any) -> PartitionSpec:
            if i is None or array.shape != params[i].shape:
                return PartitionSpec()
            return PartitionSpec(*self.parts[i])

        owners = state_owners(self.init, self.params, state)
        return jax.tree.unflatten(jax.tree.structure(state), map(partition, owners, arrays))

    def placed(self, tree: Any, partitions: list[Any]) -> Any:
        leaves = [
            x if spec is None else place(x, self.mesh, PartitionSpec(*spec))
            for x, spec in zip(self.treedef.flatten_up_to(tree), partitions, strict=True)
        ]
        return self.treedef.unflatten(leaves)


def _whole(leaf: Any) -> tuple[Any, ...]:
    """The parameter's own partition; the compiler's choice where it is not known."""
    spec = spec_of(leaf)
    return (PartitionSpec.UNCONSTRAINED,) * len(leaf.shape) if spec is None else tuple(spec)


def _split_further(
    shape: tuple[int, ...], whole: tuple[Any, ...], axes: tuple[str, ...], mesh: Any
) -> tuple[Any, ...]:
    free = PartitionSpec.UNCONSTRAINED
    used = {name for entry in whole if entry is not free for name in axes_of(entry)}
    extra = tuple(name for name in axes if name not in used)
    if not extra:
        return whole
    for i in sorted(range(len(shape)), key=lambda i: -shape[i]):
        entry = (() if whole[i] is free else axes_of(whole[i])) + extra
        if shape[i] and shape[i] % shards(mesh, entry) == 0:
            return (*whole[:i], entry, *whole[i + 1 :])
    return whole

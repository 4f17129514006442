"""Kernels that are several matrices side by side, such as query, key and value in one."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array

from lowrank_optax.core.patterns import matches
from lowrank_optax.core.trees import in_own_structure, is_none, path_string
from lowrank_optax.linalg.devices import has_explicit, mesh_of, typed_spec
from lowrank_optax.sharding.regions import place, retyped_like
from lowrank_optax.sharding.types import axes_of, shards

Sizes = Mapping[str, Sequence[int]]


def split_kernels(
    tx: optax.GradientTransformation, split_sizes: Sizes, *, axis: int = -1
) -> optax.GradientTransformationExtraArgs:
    """Let an optimizer see the parts of fused kernels as matrices of their own.

    A query, key and value in one kernel are three maps; orthonormalised together they share one
    set of singular values, one subspace and one scale. Here each part is a leaf of its own for
    `tx`, below the kernel's path: `attention/qkv/kernel` becomes `attention/qkv/kernel/0`, …

    Args:
      tx: any optimizer.
      split_sizes: from a regular expression over the "/"-joined paths to the parts' sizes, such as
        {"qkv/kernel": (512, 128, 128), "gate_up/kernel": (1376, 1376)}. (To make every head a
        matrix, use `per_head`: as a batch they compile faster than as parts.)
      axis: axis that is split.

    Returns:
      An optimizer for the fused parameters; its state is that of the split ones.

    Raises:
      ValueError: naming the parameter, if sizes do not add up to its axis, if two expressions match
        it, or if one matches nothing.

    Example:
      >>> import jax.numpy as jnp
      >>> import lowrank_optax as lro
      >>> tx = lro.split_kernels(lro.tandem(0.02), {"qkv/kernel": (8, 4, 4)})
      >>> params = {"qkv": {"kernel": jnp.ones((8, 16))}}
      >>> tx.update(params, tx.init(params))[0]["qkv"]["kernel"].shape
      (8, 16)
    """
    tx = optax.with_extra_args_support(tx)

    def split(tree: Any) -> Any:
        sizes = _sizes_by_path(tree, split_sizes, axis)
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: _parts(leaf, sizes.get(path_string(path)), axis),
            tree,
            is_leaf=is_none,
        )

    def init(params: Any) -> Any:
        return tx.init(split(params))

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        whole, parts = None if params is None else split(params), split(updates)
        state = in_own_structure(state, parts, tx.init)
        parts, state = tx.update(parts, state, whole, **extra_args)
        # As a prefix: what stands at a leaf's place is the leaf, or the list of its parts.
        join = lambda leaf, part: _whole(part, axis, leaf) if isinstance(part, list) else part
        return jax.tree.map(join, updates, parts, is_leaf=is_none), state

    return optax.GradientTransformationExtraArgs(init, update)


def _parts(leaf: Array, sizes: Sequence[int] | None, axis: int) -> Any:
    """A leaf, or the list of its parts."""
    if sizes is None:
        return leaf
    if leaf is None:
        return [None] * len(sizes)
    leaf = _divisible(leaf, sizes, axis)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [
        jax.lax.slice_in_dim(leaf, end - size, end, axis=axis)
        for size, end in zip(sizes, ends, strict=True)
    ]


def _divisible(leaf: Array, sizes: Sequence[int], axis: int) -> Array:
    """A leaf; under `Explicit` mesh axes gathered along the axis if they do not divide a part."""
    mesh, spec = mesh_of(leaf), list(typed_spec(leaf))
    if mesh is None or not has_explicit(mesh):
        return leaf
    devices = shards(mesh, axes_of(spec[axis]))
    if all(size % devices == 0 for size in sizes):
        return leaf
    spec[axis] = None
    return place(leaf, mesh, PartitionSpec(*spec))


def _whole(parts: list[Any], axis: int, like: Any) -> Any:
    """The leaf of some parts, placed as another one; None of those of None."""
    if any(map(is_none, parts)):
        return None
    return retyped_like(jnp.concatenate(parts, axis), like)


def _sizes_by_path(tree: Any, split_sizes: Sizes, axis: int) -> dict[str, Sequence[int]]:
    """Which leaves are split, and how."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_none)
    found: dict[str, Sequence[int]] = {}
    for i, sizes in matches(tree, [*split_sizes.items()], "split_sizes", is_leaf=is_none).items():
        path, leaf = path_string(leaves[i][0]), leaves[i][1]
        if leaf is not None and sum(sizes) != leaf.shape[axis]:
            raise ValueError(
                f"split_sizes: the sizes {tuple(sizes)} do not add up to axis {axis} of {path} of "
                f"shape {tuple(leaf.shape)}."
            )
        found[path] = sizes
    return found

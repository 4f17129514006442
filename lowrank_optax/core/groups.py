"""Leaves in groups that refresh on different steps, each with a state of its own."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from lowrank_optax.core.matrices import SpecTable


def grouped(
    make: Callable[[int, int], optax.GradientTransformationExtraArgs],
    specs: Callable[[Any], SpecTable],
    groups: int | None,
) -> optax.GradientTransformationExtraArgs:
    """Split the matrix leaves into groups and transform each group by itself.

    Args:
      make: the transformation of group g of G.
      specs: which leaves are matrices.
      groups: how many, whatever the number of leaves, so that the state's structure does not depend
        on it; None for one group per leaf, with which `optax.tree.map_params` cannot work.

    Returns:
      A transformation whose state is a tuple with one state per group.
    """

    def split(tree: Any) -> tuple[list[Any], list[int | None], Any, int]:
        leaves, treedef = jax.tree.flatten(tree)
        matrices = [i for i, spec in enumerate(specs(tree)) if spec is not None]
        total = len(matrices) if groups is None else groups
        owner: list[int | None] = [None] * len(leaves)
        for position, i in enumerate(matrices):
            owner[i] = position * total // len(matrices)
        return leaves, owner, treedef, total

    def part(leaves: list[Any], owner: list[int | None], treedef: Any, group: int) -> Any:
        if not leaves:  # also the placeholder of optax.tree.map_params
            return jax.tree.unflatten(treedef, leaves)
        kept = [
            leaf if mine == group else optax.MaskedNode()
            for leaf, mine in zip(leaves, owner, strict=True)
        ]
        return jax.tree.unflatten(treedef, kept)

    def init(params: Any) -> Any:
        leaves, owner, treedef, total = split(params)
        return tuple(
            make(group, total).init(part(leaves, owner, treedef, group)) for group in range(total)
        )

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        leaves, owner, treedef, total = split(updates)
        new_state = []
        for group in range(total):
            mine = part(leaves, owner, treedef, group)
            mine_params = params
            if params is not None:
                mine_params = part(treedef.flatten_up_to(params), owner, treedef, group)
            stepped, group_state = make(group, total).update(
                mine, state[group], mine_params, **extra_args
            )
            new_state.append(group_state)
            for i, leaf in enumerate(treedef.flatten_up_to(stepped)):
                if owner[i] == group:
                    leaves[i] = leaf
        return jax.tree.unflatten(treedef, leaves), tuple(new_state)

    return optax.GradientTransformationExtraArgs(init, update)

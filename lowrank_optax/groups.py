"""Leaves in groups that refresh on different steps, each with a state of its own."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from lowrank_optax.matrices import SpecTable


def grouped(
    make: Callable[[int, int], optax.GradientTransformationExtraArgs],
    specs: Callable[[Any], SpecTable],
    most_groups: int | None,
) -> optax.GradientTransformationExtraArgs:
    """Split the matrix leaves into groups and transform each group by itself.

    Args:
      make: the transformation of group g of G.
      specs: which leaves are matrices.
      most_groups: the number of groups if there are more leaves than that; None for one group per
        leaf.

    Returns:
      A transformation whose state is a tuple with one state per group.
    """

    def split(tree: Any) -> tuple[list[Any], list[int | None], Any]:
        leaves, treedef = jax.tree.flatten(tree)
        matrices = [i for i, spec in enumerate(specs(tree)) if spec is not None]
        groups = min(most_groups or len(matrices), len(matrices))
        owner: list[int | None] = [None] * len(leaves)
        for position, i in enumerate(matrices):
            owner[i] = position * groups // len(matrices)
        return leaves, owner, treedef

    def part(leaves: list[Any], owner: list[int | None], treedef: Any, group: int) -> Any:
        kept = [
            leaf if mine == group else optax.MaskedNode()
            for leaf, mine in zip(leaves, owner, strict=True)
        ]
        return jax.tree.unflatten(treedef, kept)

    def count(owner: list[int | None]) -> int:
        return 1 + max((group for group in owner if group is not None), default=-1)

    def init(params: Any) -> Any:
        leaves, owner, treedef = split(params)
        groups = count(owner)
        return tuple(
            make(group, groups).init(part(leaves, owner, treedef, group)) for group in range(groups)
        )

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        leaves, owner, treedef = split(updates)
        groups = count(owner)
        new_state = []
        for group in range(groups):
            mine = part(leaves, owner, treedef, group)
            mine_params = params
            if params is not None:
                mine_params = part(treedef.flatten_up_to(params), owner, treedef, group)
            stepped, group_state = make(group, groups).update(
                mine, state[group], mine_params, **extra_args
            )
            new_state.append(group_state)
            for i, leaf in enumerate(treedef.flatten_up_to(stepped)):
                if owner[i] == group:
                    leaves[i] = leaf
        return jax.tree.unflatten(treedef, leaves), tuple(new_state)

    return optax.GradientTransformationExtraArgs(init, update)

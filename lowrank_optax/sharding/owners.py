"""Which parameter an array of an optimizer's state belongs to."""

from collections.abc import Callable
from typing import Any

import jax
import optax


def state_owners(init: Callable[[Any], Any], params: Any, state: Any) -> list[int | None]:
    """Which parameter each array of an optimizer's state belongs to.

    A state holds trees like the parameters, with an array, a subtree or nothing (`MaskedNode`) in
    place of each. Where they are `init` itself says, asked as `optax.tree.map_params` asks, so that
    a tuple of parameters is not taken for the tuple of a chain. One that cannot be asked, because
    it computes with the arrays (`optax.lbfgs`), makes the structure tell: they are the innermost
    subtrees with that of the parameters.

    Returns:
      For each of `jax.tree.leaves(state)` the position in `jax.tree.leaves(params)`, or None for
      what belongs to no parameter: counts, keys, hyperparameters.
    """
    paths = {path: i for i, (path, _) in enumerate(jax.tree_util.tree_leaves_with_path(params))}

    def owner(path: Any) -> int:
        prefixes = (path[:length] for length in range(len(path) + 1))
        return next((paths[prefix] for prefix in prefixes if prefix in paths), -1)

    of_parameters = lambda tree: jax.tree_util.tree_map_with_path(lambda path, _: owner(path), tree)
    of_nobody = lambda tree: jax.tree.map(lambda _: -1, tree)
    try:
        owners = optax.tree.map_params(
            lambda placeholder: jax.eval_shape(init, placeholder),
            of_parameters,
            state,
            transform_non_params=of_nobody,
            is_leaf=lambda _: True,  # the whole tree that is like the parameters
        )
    except (AttributeError, TypeError, ValueError):  # of an `init` that finds no arrays there
        owners = _by_structure(params, state, of_parameters, of_nobody)
    return [None if i < 0 else i for i in jax.tree.leaves(owners)]


def _by_structure(
    params: Any, node: Any, of_parameters: Callable[[Any], Any], of_nobody: Callable[[Any], Any]
) -> Any:
    """The owners below a node of the state, from what looks like the parameters."""
    children, treedef = _one_level(node)
    if not _is_leaf(node):
        below = [_by_structure(params, child, of_parameters, of_nobody) for child in children]
        if any(i >= 0 for i in jax.tree.leaves(below)):
            return treedef.unflatten(below)
    return of_parameters(node) if _is_like(params, node) else of_nobody(node)


def _is_like(params: Any, node: Any) -> bool:
    """Whether a tree has the parameters' structure, with anything in place of the arrays."""
    if _is_leaf(params) or isinstance(node, optax.MaskedNode):
        return True
    ours, treedef = _one_level(params)
    theirs, other = _one_level(node)
    return treedef == other and all(map(_is_like, ours, theirs))


def _one_level(node: Any) -> tuple[list[Any], Any]:
    return jax.tree.flatten(node, is_leaf=lambda child: child is not node)


def _is_leaf(node: Any) -> bool:
    return jax.tree_util.all_leaves([node])

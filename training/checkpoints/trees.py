"""Trees of arrays by the paths of their leaves, to compare what is saved with what is expected."""

from collections.abc import Callable
from typing import Any

import jax

_MOST_DIFFERENCES = 8  # named in a message


def by_path(tree: Any) -> dict[str, Any]:
    """Path -> leaf, as "params/norm/scale". Named tuples, lists and dictionaries look the same."""
    return {_text(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def map_by_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """The tree with every leaf replaced by function(its path, it)."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(_text(path), leaf), tree)


def _text(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def describe(array: Any) -> str:
    """Type and shape of anything that has them, as "float32(4, 8)"."""
    return f"{array.dtype}{array.shape}"


def tree_differences(saved: Any, expected: Any) -> str:
    """A line for each array that only one of two trees has or that differs in shape or type: the
    first ones, and how many more there are; "" if the trees agree."""
    saved = {path: describe(array) for path, array in by_path(saved).items()}
    expected = {path: describe(array) for path, array in by_path(expected).items()}
    lines = []
    for path in sorted(saved.keys() | expected.keys()):
        if saved.get(path) != expected.get(path):
            found = saved.get(path, "missing")
            wanted = f"{expected[path]} expected" if path in expected else "not expected"
            lines.append(f"  {path}: {found} in the checkpoint, {wanted}")
    if len(lines) > _MOST_DIFFERENCES:
        lines[_MOST_DIFFERENCES:] = [f"  and {len(lines) - _MOST_DIFFERENCES} more"]
    return "\n".join(lines)

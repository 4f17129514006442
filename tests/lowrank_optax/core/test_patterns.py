"""Weight decay by expressions over paths."""

import jax
import jax.numpy as jnp
import pytest
from methods import compiled

import lowrank_optax as lro

PARAMS = {"up": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}, "norm": {"scale": jnp.ones(8)}}


def decayed(mask):
    """The paths of the parameters that shrink without a gradient."""
    tx = compiled(lro.tandem(0.1, 2, weight_decay=0.1, mask=mask))
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = tx.update(zeros, tx.init(PARAMS), PARAMS)
    leaves = jax.tree_util.tree_leaves_with_path(updates)
    paths = (jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves)
    return {path for path, (_, update) in zip(paths, leaves, strict=True) if update.any()}


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([("kernel", True)], {"up/kernel"}),
        ([("bias|norm", False)], {"up/kernel"}),
        ([("kernel", True), ("bias", False)], {"up/kernel"}),
        ([("^up/", True)], {"up/kernel", "up/bias"}),
    ],
)
def test_a_mask_of_expressions_is_true_where_one_says_so_or_none_says_not(mask, expected):
    assert decayed(mask) == expected


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([("kernels", True)], "mask pattern 'kernels' matches no parameter; the paths are norm/sc"),
        (
            [("up", True), ("bias", False)],
            "up/bias is matched by two mask patterns, 'up' and 'bias'",
        ),
        ([("(", True)], r"mask pattern '\(' is not a regular expression"),
    ],
)
def test_expressions_that_match_nothing_or_twice_are_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        decayed(mask)

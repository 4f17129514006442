"""Every method takes None in place of a gradient, and never another parameter's in its place."""

import functools

import chex
import jax
import optax
import pytest
from drawing import draw

import lowrank_optax as lro

RANK = 2
METHODS = {
    name: functools.partial(getattr(lro, name), 0.1)
    for name in (
        "dct_adamw",
        "dion",
        "fira",
        "frugal",
        "galore",
        "golore",
        "ldadamw",
        "online_subspace_descent",
        "tandem",
        "trion",
    )
}
BLOCKS = {
    "scale_by_trion": lro.scale_by_trion,
    "scale_by_dion": lro.scale_by_dion,
    "scale_by_low_rank": lambda rank, **settings: lro.scale_by_low_rank(
        optax.scale_by_adam(), lro.projections.dct(rank), **settings
    ),
}
# "a" comes before "b" and has its shape: by position b's gradient would be taken for a's.
SHAPES = {"a": (6, 9), "b": (6, 9), "bias": (9,), "list": [(9, 6), (6, 9)]}
QUICK = ("galore", "scale_by_low_rank")
each_method = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in METHODS | BLOCKS
    ],
)


def model(seed):
    shapes, structure = jax.tree.flatten(SHAPES, is_leaf=lambda node: isinstance(node, tuple))
    leaves = [draw(shape, 10 * seed + i) for i, shape in enumerate(shapes)]
    return jax.tree.unflatten(structure, leaves)


def without(tree):
    """A tree of gradients or updates without a matrix, one of a list, and a vector."""
    return tree | {"a": None, "bias": None, "list": [None, tree["list"][1]]}


@functools.cache
def stepped(name):
    """A method, its state after two steps, and what it makes of a third gradient, or of a part."""
    tx = (METHODS | BLOCKS)[name](rank=RANK)
    tx = optax.GradientTransformationExtraArgs(jax.jit(tx.init), jax.jit(tx.update))
    params = model(0)
    state = tx.init(params)
    for seed in (1, 2):
        _, state = tx.update(model(seed), state, params)
    third = model(3)
    return tx, state, tx.update(third, state, params), tx.update(without(third), state, params)


@pytest.mark.product(every=2)
@each_method
def test_none_is_no_update_and_other_parameters_step_as_ever(name):
    _, state, (everywhere, _), (updates, new_state) = stepped(name)
    chex.assert_trees_all_close(updates, without(everywhere), rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)


@each_method
def test_the_state_of_a_parameter_without_gradient_stays_as_it_is(name):
    _, state, _, (_, new_state) = stepped(name)
    untouched = lambda tree: (tree["a"], tree["bias"], tree["list"][0])
    owned = 0
    for tree, before in zip(*map(parameter_trees, (new_state, state)), strict=True):
        chex.assert_trees_all_equal(untouched(tree), untouched(before))
        owned += len(jax.tree.leaves(untouched(tree)))
    assert owned


@each_method
def test_a_gradient_that_comes_back_is_used(name):
    tx, _, _, (_, state) = stepped(name)
    updates, _ = tx.update(model(4), state, model(0))
    chex.assert_tree_all_finite(updates)
    assert updates["a"].any()


@each_method
def test_a_missing_gradient_without_parameters_is_explained(name):
    tx, state, _, _ = stepped(name)
    with pytest.raises(ValueError, match=r"the gradient of \S+ is None.*pass the parameters"):
        tx.update(without(model(3)), state)


@each_method
def test_patterns_may_be_about_a_parameter_without_gradient(name):
    kernel = optax.contrib.MuonDimensionNumbers(0, 1)
    numbers = [("^a$", kernel), ("^b$", kernel)]
    tx, params = (METHODS | BLOCKS)[name](rank=RANK, dimension_numbers=numbers), model(0)
    state = jax.eval_shape(tx.init, params)
    updates, _ = jax.eval_shape(tx.update, model(1) | {"b": None}, state, params)
    assert updates["b"] is None


def parameter_trees(state):
    """The trees like the parameters in a state."""
    is_tree = lambda node: isinstance(node, dict) and set(node) == set(SHAPES)
    return [node for node in jax.tree.leaves(state, is_leaf=is_tree) if is_tree(node)]

"""A gradient that is None is no update: nothing happens to its parameter, all else goes on."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from lowrank_optax.core.missing import without_none

PARAMS = {"a": jnp.full(3, 1.0), "b": jnp.full(3, 2.0), "c": [jnp.full(2, 3.0), jnp.ones(())]}
GRADS = jax.tree.map(lambda x: 0.5 * x, PARAMS)
TRANSFORMS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, 0.9),
    "adam": optax.adam(0.1),
    "adamw": optax.adamw(0.1, weight_decay=0.1),
    "lion": optax.lion(0.1),
    "partition": optax.partition({0: optax.adam(0.1), 1: optax.sgd(0.1)}, {"a": 0, "b": 0, "c": 1}),
    "MultiSteps": optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
    "inject_hyperparams": optax.inject_hyperparams(optax.adam)(0.1),
}
each_transform = pytest.mark.parametrize("tx", TRANSFORMS.values(), ids=TRANSFORMS)


def after_a_step(tx):
    return tx.update(GRADS, tx.init(PARAMS), PARAMS)[1]


@pytest.mark.product(every=4)
@each_transform
@pytest.mark.parametrize("missing", ["a", "b", "c"])
def test_none_is_no_update_and_leaves_the_state_of_its_parameter_alone(tx, missing):
    state, tx = after_a_step(tx), without_none(tx)
    updates, new = tx.update(GRADS | {missing: None}, state, PARAMS)
    everywhere, expected = tx.update(GRADS, state, PARAMS)
    assert updates[missing] is None
    chex.assert_trees_all_equal(updates, everywhere | {missing: None})
    chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
    for tree, where, untouched in zip(*map(parameter_trees, (new, expected, state)), strict=True):
        chex.assert_trees_all_equal(tree, where | {missing: untouched[missing]})


def parameter_trees(state):
    is_tree = lambda node: isinstance(node, dict) and set(node) == set(PARAMS)
    found = [node for node in jax.tree.leaves(state, is_leaf=is_tree) if is_tree(node)]
    return found


@pytest.mark.product(every=4)
@each_transform
def test_without_none_nothing_changes(tx):
    state = tx.init(PARAMS)
    chex.assert_trees_all_equal(
        without_none(tx).update(GRADS, state, PARAMS), tx.update(GRADS, state, PARAMS)
    )


def test_none_beside_none_is_a_parameter_that_is_not_there():
    tx = without_none(optax.adam(0.1))
    params, grads = PARAMS | {"b": None}, GRADS | {"b": None}
    for given in (params, None):
        updates, state = tx.update(grads, tx.init(params), given)
        assert updates["b"] is None
        chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(params))


def test_without_parameters_state_for_a_missing_gradient_is_explained():
    tx = without_none(optax.adam(0.1))
    grads = GRADS | {"c": [GRADS["c"][0], None]}
    message = r"the gradient of c/1 is None, but there is state for it; pass the parameters"
    with pytest.raises(ValueError, match=message):
        tx.update(grads, tx.init(PARAMS))
    updates, _ = without_none(optax.sgd(0.1)).update(grads, optax.sgd(0.1).init(PARAMS))
    assert updates["c"][1] is None


def test_it_compiles_and_takes_extra_arguments():
    tx = without_none(optax.adam(0.1))
    update = jax.jit(lambda *args: tx.update(*args, unexpected=1))
    updates, state = update(GRADS | {"c": None}, tx.init(PARAMS), PARAMS)
    updates, state = update(GRADS, state, PARAMS)
    chex.assert_trees_all_equal_structs(updates, PARAMS)

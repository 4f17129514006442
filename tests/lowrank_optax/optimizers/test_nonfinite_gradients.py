"""A non-finite gradient propagates as in optax; what skips such a step leaves no trace of it."""

import functools

import chex
import jax.numpy as jnp
import optax
import pytest
from methods import METHODS, compiled, each_method, make, model

import lowrank_optax as lro

each_poison = pytest.mark.parametrize("poison", [jnp.nan, jnp.inf], ids=str)
STEPS = (1, 2, 3, 4)  # the first and the fourth choose a subspace at `update_interval=3`


def poisoned(seed, poison):
    """Gradients of which one entry of one matrix is not finite."""
    gradients = model(seed)
    return gradients | {"first": gradients["first"].at[1, 2].set(poison)}


def state_after(tx, params, steps):
    state = tx.init(params)
    for step in range(1, steps):
        _, state = tx.update(model(step), state, params)
    return state


@functools.cache
def optimizer(name):
    return compiled(make(name) if name in METHODS else optax.adamw(1e-2))


def others(updates):
    return [updates["second"], updates["bias"]]


def check_that_it_propagates(tx, poison, step):
    params = model(0)
    state = state_after(tx, params, step)
    clean, clean_state = tx.update(model(step), state, params)
    updates, state = tx.update(poisoned(step, poison), state, params)
    assert not jnp.isfinite(updates["first"]).all()
    chex.assert_trees_all_equal(others(updates), others(clean))
    clean, _ = tx.update(model(step + 1), clean_state, params)
    updates, _ = tx.update(model(step + 1), state, params)
    chex.assert_trees_all_equal(others(updates), others(clean))


@each_poison
def test_it_propagates_into_the_update_of_adamw_and_of_no_other_leaf(poison):
    check_that_it_propagates(optimizer("adamw"), poison, 2)


@pytest.mark.product
@pytest.mark.parametrize("step", STEPS)
@each_poison
@each_method
def test_it_propagates_into_its_matrix_and_into_no_other_leaf(name, poison, step):
    check_that_it_propagates(optimizer(name), poison, step)


@pytest.mark.product(every=3)
@pytest.mark.parametrize("select", ["l1", "importance", "hybrid"])
def test_a_row_that_is_not_a_number_is_chosen_and_does_not_wait_in_the_momentum(select):
    check_that_it_propagates(compiled(lro.dion2(1e-2, 2, select=select)), jnp.nan, 2)


@functools.cache
def careful(name):
    return compiled(optax.apply_if_finite(make(name), 5))


@functools.cache
def accumulating(name):
    tx = optax.MultiSteps(make(name), 2, should_skip_update_fn=optax.skip_not_finite)
    return compiled(tx.gradient_transformation())


@pytest.mark.product
@each_poison
@each_method
def test_apply_if_finite_leaves_parameters_and_state_as_they_were(name, poison):
    params = model(0)
    state = state_after(careful(name), params, 3)
    updates, new_state = careful(name).update(poisoned(9, poison), state, params)
    chex.assert_trees_all_equal(optax.apply_updates(params, updates), params)
    chex.assert_trees_all_equal(new_state.inner_state, state.inner_state)
    assert int(new_state.total_notfinite) == 1


@pytest.mark.product
@pytest.mark.parametrize("within", ["first of two", "second of two"])
@each_poison
@each_method
def test_skipped_micro_steps_leave_parameters_and_state_as_they_were(name, poison, within):
    tx = accumulating(name)
    params = model(0)
    state = state_after(tx, params, 3 if within == "first of two" else 4)
    updates, new_state = tx.update(poisoned(9, poison), state, params)
    chex.assert_trees_all_equal(optax.apply_updates(params, updates), params)
    unlike = {"skip_state": None}
    chex.assert_trees_all_equal(new_state._replace(**unlike), state._replace(**unlike))
    assert int(new_state.skip_state["num_not_finite"]) == 1

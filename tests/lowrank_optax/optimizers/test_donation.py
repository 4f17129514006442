"""A step may take over the buffers of parameters and state."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw
from methods import METHODS, make, model

import lowrank_optax as lro

SCHEDULES = {
    "stagger": dict(update_interval=3, stagger=True),
    "adaptive": dict(update_interval=lro.adaptive(2)),
}
MAKERS = {name: functools.partial(make, name) for name in METHODS}
for schedule, settings in SCHEDULES.items():
    MAKERS[f"galore {schedule}"] = functools.partial(make, "galore", **settings)
    MAKERS[f"low_rank {schedule}"] = functools.partial(lro.low_rank, 1e-2, 2, **settings)


@pytest.mark.product(every=14)
@pytest.mark.parametrize("name", MAKERS)
def test_a_step_may_be_given_the_buffers_of_parameters_and_state(name):
    tx = MAKERS[name]()

    def step(params, state, gradients):
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    kept, donated = jax.jit(step), jax.jit(step, donate_argnums=(0, 1))
    params = model(0)
    state = jax.jit(tx.init)(params)
    expected = kept(*kept(params, state, model(1)), model(2))
    after = donated(params, state, model(1))
    assert all(leaf.is_deleted() for leaf in params.values())
    chex.assert_trees_all_equal(donated(*after, model(2)), expected)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_of_their_own_costs_leaves_a_number_or_two(schedule):
    tx = lro.scale_by_low_rank(
        optax.scale_by_adam(), lro.projections.random(2), **SCHEDULES[schedule]
    )
    assert len(jax.tree.leaves(tx.init(jnp.ones((4, 8))))) <= 8


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_layers_with_a_schedule_of_their_own_draw_their_own_subspaces(schedule):
    tx = lro.scale_by_low_rank(optax.identity(), lro.projections.random(2), **SCHEDULES[schedule])
    gradients = {"first": draw((4, 8)), "second": draw((4, 8))}
    updates, _ = jax.jit(tx.update)(gradients, tx.init(gradients))
    # The same gradient in two subspaces: far apart, where one subspace would give the same bits.
    distance = np.linalg.norm(updates["first"] - updates["second"])
    assert distance > 0.1 * np.linalg.norm(updates["first"])

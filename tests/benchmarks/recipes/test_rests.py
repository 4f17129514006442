"""The rests that only the search has: what they remember, and what their blocks are."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

import lowrank_optax as lro
from benchmarks.recipes.rests import Mixed, Remembering

SHAPE = (16, 24)
RATE = 0.1


def updates(rest, steps):
    """Of one matrix; the first 4 rows of its first gradient are the longest, then 4 others."""
    tx = lro.tandem(RATE, rank=4, rest=rest, neuron_decay=None, mu_dtype=None)
    params = {"w": jnp.zeros(SHAPE)}
    state, found = tx.init(params), []
    for step in range(steps):
        gradient = jax.random.normal(jax.random.key(step), SHAPE)
        gradient = gradient.at[4 * step : 4 * step + 4].multiply(100)
        update, state = jax.jit(tx.update)({"w": gradient}, state, params)
        found.append(np.asarray(update["w"]))
    return found


def test_without_a_momentum_the_remembering_rest_is_the_librarys():
    expected = updates("orthonormal", 2)
    chex.assert_trees_all_close(updates(Remembering(0.0), 2), expected, atol=1e-6)


def test_a_row_that_was_chosen_has_no_momentum_in_the_rest_and_the_others_have():
    subspace = lro.projections.identity(4).subspace(jnp.arange(4), SHAPE)
    rest, A = Remembering(0.5), jnp.ones(SHAPE)
    step = _step(subspace, A)
    _, M = rest.finish(step, rest.init(SHAPE, A.dtype))
    _, M = rest.finish(step, M)
    np.testing.assert_allclose(M, np.where(np.arange(16)[:, None] < 4, 0.0, 1.5) * A)


def test_mixed_blocks_are_orthonormal_in_sum_and_others_at_every_step():
    subspace = lro.projections.identity(4).subspace(jnp.arange(4), SHAPE)
    A, rest, state = jax.random.normal(jax.random.key(0), SHAPE), Mixed(), jnp.zeros((), jnp.int32)
    steps = []
    for _ in range(2):
        step, state = rest.finish(_step(subspace, A), state)
        steps.append(np.asarray(step))
    for step in steps:
        lengths = np.linalg.norm(step, axis=1)
        np.testing.assert_allclose(lengths[:4], 0.0, atol=1e-6)
        assert np.all((lengths[4:] > 0.6) & (lengths[4:] < 1.3))
    assert np.abs(steps[0] - steps[1]).max() > 0.05
    assert state == 2


def _step(subspace, A):
    return lro.residuals.Step(
        projection=lro.projections.identity(4),
        subspace=subspace,
        A=A,
        a=subspace.project(A),
        direction=jnp.zeros((4, SHAPE[1])),
        scale=1.0,
    )

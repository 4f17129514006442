"""A number that optax.inject_hyperparams turned into an array does what it does as a number."""

import functools
import inspect

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw
from methods import compiled, model

import lowrank_optax as lro


def injected(function, **settings):
    """With every number as an array but those that shape the program, static for optax too."""
    static = {"rank", "ns_steps"} & set(inspect.signature(function).parameters)
    return optax.inject_hyperparams(function, static_args=tuple(static))(**settings)


def updates(tx, gradients):
    tx = compiled(tx)
    state = tx.init(gradients[0])
    for gradient in gradients:
        step, state = tx.update(gradient, state, gradients[0])
        yield step


@pytest.mark.product
@pytest.mark.parametrize("make", [injected, lambda function, **settings: function(**settings)])
@pytest.mark.parametrize(
    ("interval", "refreshes"), [(3, [1, 3, 6]), (2, [1, 2, 4, 6]), (1, [1, 2, 3, 4, 5, 6, 7])]
)
def test_dct_adamw_refreshes_at_the_first_step_and_at_every_tth(make, interval, refreshes):
    """Each step's gradient is in a column of its own, so that an update shows the last refresh."""
    tx = make(
        lro.dct_adamw,
        learning_rate=1.0,
        rank=1,
        update_interval=interval,
        error_feedback=None,
        b1=0.5,
    )
    Q = np.asarray(lro.dct_matrix(8))
    gradients = [jnp.asarray(Q[:, [step]] * np.ones((1, 10))) for step in range(8)]
    columns = [
        int(np.abs(Q.T @ update).sum(axis=1).argmax()) for update in updates(tx, gradients[1:])
    ]
    last = lambda step: max(refresh for refresh in refreshes if refresh <= step)
    assert columns == [last(step) for step in range(1, 8)]


CASES = {
    "golore random_after": functools.partial(lro.golore, random_after=4, update_interval=3),
    "dion power_iters": functools.partial(lro.dion, power_iters=3),
    "galore stagger": functools.partial(lro.galore, update_interval=3, stagger=True),
    "low_rank stagger": functools.partial(lro.low_rank, update_interval=3, stagger=True),
    "dct_adamw": functools.partial(lro.dct_adamw, update_interval=3),
    "frugal": functools.partial(lro.frugal, update_interval=3, inactive_scale=0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_injected_program_numbers_give_the_same_steps(case):
    gradients = [model(seed) for seed in range(7)]
    settings = dict(learning_rate=1e-2, rank=2) | CASES[case].keywords
    got = updates(injected(CASES[case].func, **settings), gradients)
    for step, expected in zip(got, updates(CASES[case].func(**settings), gradients), strict=True):
        for name in step:
            np.testing.assert_allclose(step[name], expected[name], rtol=1e-4, atol=1e-6)


def test_an_injected_interval_may_change_from_step_to_step():
    tx = compiled(injected(lro.galore, learning_rate=1.0, rank=1, update_interval=1000))
    first, second = draw((4, 8)), draw((4, 8), 1)
    basis = lambda state: np.asarray(lro.matrix_states(state)[0].basis)
    _, state = tx.update(first, tx.init(first), first)
    _, kept = tx.update(second, state, first)
    np.testing.assert_array_equal(basis(kept), basis(state))
    every_step = state.hyperparams | {"update_interval": jnp.ones_like(state.count)}
    _, refreshed = tx.update(second, state._replace(hyperparams=every_step), first)
    assert np.abs(basis(refreshed) - basis(state)).max() > 0.1


@pytest.mark.slow
def test_a_selection_that_is_named_as_static_is_not_called_as_a_schedule():
    settings = dict(learning_rate=0.1, rank=2, select=lro.selection.importance())
    static = ("rank", "ns_steps", "select")
    tx = optax.inject_hyperparams(lro.trion, static_args=static)(**settings)
    (got,), (expected,) = (updates(each, [model(0)]) for each in (tx, lro.trion(**settings)))
    np.testing.assert_allclose(got["first"], expected["first"], rtol=1e-5)

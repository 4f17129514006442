"""Schedules of the subspace: adaptive intervals, staggered refreshes, and a changing rank."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lowrank_optax as lro
from lowrank_optax import refresh


def draw(seed, shape=(12, 6)):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def run(tx, grads):
    state = jax.jit(tx.init)(grads[0])
    update = jax.jit(tx.update)
    states = []
    for grad in grads:
        _, state = update(grad, state)
        states.append(state)
    return states


def test_a_stable_subspace_doubles_its_interval_up_to_the_longest():
    schedule = lro.adaptive(1, threshold=0.5, longest=4)
    tx = lro.scale_by_low_rank(optax.identity(), lro.projections.svd(2), update_interval=schedule)
    states = run(tx, [draw(0)] * 12)
    # Refreshed at 0; at 1 nothing had changed, so wait 2; at 3 again, so wait 4, the longest.
    assert [int(state[0].refresh.interval) for state in states] == [
        1,
        2,
        2,
        4,
        4,
        4,
        4,
        4,
        4,
        4,
        4,
        4,
    ]
    assert [int(state[0].refresh.due_at) for state in states] == [
        1,
        3,
        3,
        7,
        7,
        7,
        7,
        11,
        11,
        11,
        11,
        15,
    ]


def test_a_changing_subspace_keeps_its_interval():
    schedule = lro.adaptive(2, threshold=0.99)
    tx = lro.scale_by_low_rank(optax.identity(), lro.projections.dct(2), update_interval=schedule)
    # Gradients along single, ever different, DCT columns.
    Q = lro.dct_matrix(6)
    grads = [
        jnp.outer(jnp.ones(12), Q[:, 2 * (i // 2) % 6] + Q[:, (2 * (i // 2) + 1) % 6])
        for i in range(6)
    ]
    states = run(tx, grads)
    assert {int(state[0].refresh.interval) for state in states} == {2}


def test_every_matrix_follows_an_adaptive_schedule_of_its_own():
    schedule = lro.adaptive(1, threshold=0.9)
    tx = lro.scale_by_low_rank(optax.identity(), lro.projections.svd(1), update_interval=schedule)
    grads = [{"changing": draw(i), "stable": draw(0)} for i in range(4)]
    changing, stable = run(tx, grads)[-1]
    assert int(stable.refresh.interval) > int(changing.refresh.interval) == 1


def test_staggered_matrices_never_refresh_together_after_the_first_step():
    names = ["a", "b", "c", "d"]
    tx = lro.scale_by_low_rank(
        optax.scale_by_adam(), lro.projections.svd(1), update_interval=4, stagger=True
    )
    states = run(tx, [{name: draw(10 * i + j) for j, name in enumerate(names)} for i in range(9)])
    bases = lambda state: np.stack([state[g].basis[name] for g, name in enumerate(names)])
    changed = [
        np.any(bases(new) != bases(old), axis=(1, 2)) for old, new in itertools.pairwise(states)
    ]
    assert np.array_equal(np.sum(changed, axis=1), np.ones(8))
    assert np.array_equal(np.sum(changed, axis=0), np.full(4, 2))


def test_staggering_leaves_the_step_of_each_matrix_as_it_would_be_alone():
    grads = [{"a": draw(i), "b": draw(100 + i)} for i in range(5)]
    tx = lro.galore(0.1, 2, update_interval=2, stagger=True)
    alone = lro.galore(0.1, 2, update_interval=2)
    state, first = tx.init(grads[0]), alone.init({"a": grads[0]["a"]})
    for grad in grads:
        updates, state = tx.update(grad, state)
        expected, first = alone.update({"a": grad["a"]}, first)
        np.testing.assert_allclose(updates["a"], expected["a"], rtol=1e-5, atol=1e-7)


def test_the_rank_can_follow_a_schedule():
    projection = lro.projections.scheduled_rank(
        lro.projections.svd(4), lambda refreshes: jnp.minimum(1 + refreshes, 4)
    )
    tx = lro.scale_by_low_rank(optax.scale_by_adam(), projection, update_interval=2)
    states = run(tx, [draw(0)] * 8)
    columns = [int(jnp.sum(jnp.any(state.basis.P != 0, axis=-2))) for state in states]
    assert columns == [1, 1, 2, 2, 3, 3, 4, 4]
    for state, rank in zip(states, columns, strict=True):
        P = state.basis.P
        captured = jnp.sum(jnp.square(draw(0) @ P)) / jnp.sum(jnp.square(draw(0)))
        best = lro.diagnostics.captured_energy(draw(0), lro.projections.svd(rank))
        np.testing.assert_allclose(captured, best, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: lro.adaptive(0), ValueError, "interval=0 must be at least 1"),
        (lambda: lro.adaptive(threshold=1.5), ValueError, "threshold=1.5 is an overlap"),
        (lambda: refresh.resolve(2.5), TypeError, r"update_interval=2\.5 must be an int"),
        (
            lambda: lro.projections.scheduled_rank(lro.projections.online_pca(4), lambda k: k),
            TypeError,
            "does not remember a plain matrix P alone; use projections.svd",
        ),
    ],
)
def test_bad_schedules_are_explained(make, error, message):
    with pytest.raises(error, match=message):
        make()

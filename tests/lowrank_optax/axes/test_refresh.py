"""Schedules of the subspace: adaptive intervals, staggered refreshes, and a changing rank."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw
from methods import compiled

import lowrank_optax as lro
from lowrank_optax import refresh

SHAPE = (6, 12)
SCHEDULES = {
    "every step": {},
    "interval": {"update_interval": 2},
    "staggered": {"update_interval": 4, "stagger": True},
    "adaptive": {"update_interval": lro.adaptive(1, threshold=0.9)},
}


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
    schedules = [state.schedule for state in run(tx, [draw(SHAPE)] * 12)]
    # Refreshed at 0; at 1 nothing had changed, so wait 2; at 3 again, so wait 4, the longest.
    assert [int(schedule.interval) for schedule in schedules] == [1, 2, 2, *[4] * 9]
    assert [int(schedule.due_at) for schedule in schedules] == [1, 3, 3, *[7] * 4, *[11] * 4, 15]


def test_a_changing_subspace_keeps_its_interval():
    schedule = lro.adaptive(2, threshold=0.99)
    tx = lro.scale_by_low_rank(optax.identity(), lro.projections.dct(2), update_interval=schedule)
    # Gradients along single, ever different, DCT columns.
    Q = lro.dct_matrix(6)
    grads = [
        jnp.outer(Q[:, 2 * (i // 2) % 6] + Q[:, (2 * (i // 2) + 1) % 6], jnp.ones(12))
        for i in range(6)
    ]
    states = run(tx, grads)
    assert {int(state.schedule.interval) for state in states} == {2}


def test_every_matrix_follows_an_adaptive_schedule_of_its_own():
    schedule = lro.adaptive(1, threshold=0.9)
    tx = lro.scale_by_low_rank(optax.identity(), lro.projections.svd(1), update_interval=schedule)
    grads = [{"changing": draw(SHAPE, i), "stable": draw(SHAPE)} for i in range(4)]
    schedule = run(tx, grads)[-1].schedule
    assert int(schedule["stable"].interval) > int(schedule["changing"].interval) == 1


def test_stacked_matrices_share_a_schedule_and_the_one_that_changes_most_decides():
    schedule = lro.adaptive(1, threshold=0.9)
    tx = lro.scale_by_low_rank(
        optax.identity(),
        lro.projections.svd(1),
        update_interval=schedule,
        dimension_numbers=optax.contrib.MuonDimensionNumbers(1, 2),
    )
    changing = [jnp.stack([draw(SHAPE), draw(SHAPE, i)]) for i in range(4)]
    assert int(run(tx, changing)[-1].schedule.interval) == 1
    assert int(run(tx, changing[:1] * 4)[-1].schedule.interval) > 1


def test_staggered_matrices_never_refresh_together_after_the_first_step():
    names = ["a", "b", "c", "d"]
    tx = lro.scale_by_low_rank(
        optax.scale_by_adam(), lro.projections.svd(1), update_interval=4, stagger=True
    )
    states = run(
        tx, [{name: draw(SHAPE, 10 * i + j) for j, name in enumerate(names)} for i in range(9)]
    )
    bases = lambda state: np.stack([state.basis[name] for name in names])
    changed = [
        np.any(bases(new) != bases(old), axis=(1, 2)) for old, new in itertools.pairwise(states)
    ]
    assert np.array_equal(np.sum(changed, axis=1), np.ones(8))
    assert np.array_equal(np.sum(changed, axis=0), np.full(4, 2))


def test_staggering_leaves_the_step_of_each_matrix_as_it_would_be_alone():
    grads = [{"a": draw(SHAPE, i), "b": draw(SHAPE, 100 + i)} for i in range(5)]
    tx = compiled(lro.galore(0.1, 2, update_interval=2, stagger=True))
    alone = compiled(lro.galore(0.1, 2, update_interval=2))
    state, first = tx.init(grads[0]), alone.init({"a": grads[0]["a"]})
    for grad in grads:
        updates, state = tx.update(grad, state)
        expected, first = alone.update({"a": grad["a"]}, first)
        np.testing.assert_allclose(updates["a"], expected["a"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("name", "remembered"), [("staggered", 0), ("adaptive", 2)])
def test_a_schedule_by_matrix_keeps_one_count_and_little_else(name, remembered):
    tx = lro.scale_by_low_rank(optax.scale_by_adam(), lro.projections.svd(2), **SCHEDULES[name])
    one, three = (
        jax.eval_shape(tx.init, {path: draw(SHAPE) for path in paths}) for paths in ("a", "abc")
    )
    assert isinstance(three, lro.LowRankState)
    assert three.count.shape == ()
    # The count and the key; per matrix its basis, Adam's three, and what the schedule remembers.
    assert len(jax.tree.leaves(one)) == 2 + (4 + remembered) <= 8
    assert len(jax.tree.leaves(three)) == 2 + 3 * (4 + remembered)


@pytest.mark.product(every=10)
@pytest.mark.parametrize("settings", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize(
    "projection",
    [lro.projections.random(4), lro.projections.svd(4, "uniform")],
    ids=["random", "svd uniform"],
)
def test_layers_and_matrices_of_a_stack_start_in_random_subspaces_of_their_own(
    projection, settings
):
    numbers = optax.contrib.MuonDimensionNumbers(-2, -1)
    tx = lro.scale_by_low_rank(optax.identity(), projection, dimension_numbers=numbers, **settings)
    A = draw((24, 30))
    (state,) = run(tx, [{"first": A, "second": A, "stack": jnp.stack([A, A])}])
    bases = [state.basis["first"], state.basis["second"], *state.basis["stack"]]
    for P, Q in itertools.combinations(bases, 2):
        assert np.sum(np.square(np.asarray(P).T @ np.asarray(Q))) / 4 < 0.99


def test_a_predicate_is_not_asked_about_the_first_step():
    tx = lro.low_rank(1.0, 2, projection="svd", update_interval=lambda count: count % 5 == 3)
    first, second, *_ = run(tx, [{"w": draw(SHAPE)}] * 2)
    bases = [lro.matrix_states(state)[0].basis["w"] for state in (first, second)]
    assert (bases[0] != jnp.eye(*bases[0].shape)).any()
    np.testing.assert_array_equal(*bases)


@pytest.mark.parametrize("stagger", [False, True])
def test_an_interval_of_numpy_is_a_number(stagger):
    assert refresh.resolve(np.int64(5), stagger) == refresh.resolve(5, stagger)
    assert refresh.resolve(np.int32(1)) == refresh.resolve(1)
    with pytest.raises(ValueError, match="update_interval=0 must be at least 1"):
        refresh.resolve(np.int64(0))


def test_the_rank_can_follow_a_schedule():
    projection = lro.projections.scheduled_rank(
        lro.projections.svd(4), lambda refreshes: jnp.minimum(1 + refreshes, 4)
    )
    tx = lro.scale_by_low_rank(optax.scale_by_adam(), projection, update_interval=2)
    A = draw(SHAPE)
    states = run(tx, [A] * 8)
    bases = [np.asarray(state.basis.P) for state in states]
    columns = [int(np.any(P != 0, axis=-2).sum()) for P in bases]
    assert columns == [1, 1, 2, 2, 3, 3, 4, 4]
    energies = np.linalg.svd(A, compute_uv=False) ** 2
    for P, rank in zip(bases, columns, strict=True):
        captured = np.sum(np.square(P.T @ np.asarray(A)))
        np.testing.assert_allclose(captured, energies[:rank].sum(), rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: lro.adaptive(0), ValueError, "interval=0 must be at least 1"),
        (lambda: lro.adaptive(threshold=1.5), ValueError, "threshold=1.5 is an overlap"),
        (
            lambda: refresh.resolve(1, stagger=True),
            ValueError,
            "stagger=True .* update_interval=1 is no int above 1",
        ),
        (
            lambda: refresh.resolve(lro.adaptive(), stagger=True),
            ValueError,
            "stagger=True spreads refreshes .* is no int above 1",
        ),
        (lambda: refresh.resolve(2.5), TypeError, r"update_interval=2\.5 must be an int"),
        (
            lambda: lro.projections.switch(
                lro.projections.svd(2), lro.projections.online_pca(2), 3
            ),
            TypeError,
            "switch: OnlinePca.* does not remember a plain matrix P alone",
        ),
        (
            lambda: lro.projections.switch(lro.projections.svd(2), lro.projections.random(8), 0),
            ValueError,
            "switch: first has rank=2 and second rank=8; give both the same rank",
        ),
        (
            lambda: lro.projections.switch(lro.projections.svd(1), lro.projections.random(1.0), 0),
            ValueError,
            r"rank=1 and second rank=1\.0",
        ),
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

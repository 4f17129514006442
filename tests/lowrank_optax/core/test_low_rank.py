"""The engine: refresh schedule, transport of moments, inner optimizers, and what it compiles to."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lowrank_optax as lro

SHAPE = (12, 6)


def draw(seed, shape=SHAPE):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def states(tx, steps=7):
    state = jax.jit(tx.init)(draw(0))
    update = jax.jit(tx.update)
    seen = []
    for step in range(steps):
        _, state = update(draw(step), state, draw(0))
        seen.append(state)
    return seen


def refreshes(update_interval, steps=7):
    tx = lro.scale_by_low_rank(
        optax.identity(), lro.projections.dct(2), update_interval=update_interval
    )
    bases = [np.asarray(state.basis) for state in states(tx, steps)]
    best = []
    for step in range(steps):
        projection = lro.projections.dct(2)
        S = projection.analyze(draw(step))
        best.append(np.asarray(projection.refresh(S, None, 2, None)))
    return bases, best


def test_the_subspace_changes_where_count_is_a_multiple_of_the_interval():
    bases, best = refreshes(3)
    for step, basis in enumerate(bases):
        np.testing.assert_array_equal(basis, best[step - step % 3])


def test_the_subspace_may_follow_any_function_of_the_count():
    bases, best = refreshes(lambda count: (count == 0) | (count == 4))
    for step, basis in enumerate(bases):
        np.testing.assert_array_equal(basis, best[0 if step < 4 else 4])


def test_the_published_schedule_of_dct_adamw_counts_from_one():
    tx = lro.dct_adamw(0.1, 2, update_interval=3, error_feedback=None)
    bases = [np.asarray(s.inner_states["matrices"].inner_state[0].basis) for s in states(tx)]
    changed = [not np.array_equal(bases[i], bases[i - 1]) for i in range(1, 7)]
    assert [i for i, flag in enumerate(changed, 1) if flag] == [2, 5]


@pytest.mark.parametrize("batch", [(), (3,)])
def test_the_refresh_is_one_scalar_cond_outside_every_batch(batch):
    tx = lro.scale_by_low_rank(
        optax.scale_by_adam(),
        lro.projections.dct(2),
        update_interval=5,
        transport="rotate",
        dimension_numbers=optax.contrib.MuonDimensionNumbers(-2, -1),
    )
    params = jnp.zeros((*batch, *SHAPE))
    jaxpr = jax.make_jaxpr(tx.update)(params, tx.init(params)).jaxpr
    conds = [equation for equation in jaxpr.eqns if equation.primitive.name == "cond"]
    assert len(conds) == 1
    assert conds[0].invars[0].aval.shape == ()
    branches = [str(branch) for branch in conds[0].params["branches"]]
    # Only a refresh ranks columns.
    assert ["sort[" in branch for branch in branches].count(True) == 1


def test_no_count_and_no_key_are_kept_where_none_is_needed():
    (every_step,) = states(lro.scale_by_low_rank(optax.identity(), lro.projections.dct(2)), 1)
    assert every_step.refresh == () == every_step.key


def test_reset_starts_the_inner_optimizer_anew_at_every_refresh():
    tx = lro.scale_by_low_rank(
        optax.scale_by_adam(), lro.projections.dct(2), update_interval=3, transport="reset"
    )
    assert [int(state.inner.count) for state in states(tx)] == [1, 2, 3, 1, 2, 3, 1]


@pytest.mark.parametrize(
    "inner",
    [
        optax.scale_by_lion(),
        optax.trace(0.9),
        optax.scale_by_factored_rms(min_dim_size_to_factor=2),
        optax.scale_by_rms(),
        optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam()),
    ],
    ids=["lion", "momentum", "adafactor", "rms", "chain"],
)
@pytest.mark.parametrize("transport", ["keep", "reset"])
def test_any_optax_transformation_can_be_the_inner_optimizer(inner, transport):
    tx = lro.scale_by_low_rank(inner, lro.projections.dct(2), transport=transport)
    first, *_, last = states(tx, 3)
    chex.assert_trees_all_equal_shapes_and_dtypes(first, last)
    chex.assert_tree_all_finite(last)


def test_at_full_rank_adam_is_adam_in_rotated_coordinates():
    tx = lro.scale_by_low_rank(optax.scale_by_adam(), lro.projections.dct(1.0))
    adam = optax.scale_by_adam()
    state, adam_state = tx.init(draw(0)), adam.init(draw(0))
    for step in range(4):
        updates, state = tx.update(draw(step), state)
        expected, adam_state = adam.update(lro.orthogonal_dct(draw(step)), adam_state)
        np.testing.assert_allclose(lro.orthogonal_dct(updates), expected, atol=2e-5)


def test_scale_may_be_a_number_or_depend_on_the_matrix():
    base = lro.scale_by_low_rank(optax.identity(), lro.projections.dct(2))
    once, _ = base.update(draw(0), base.init(draw(0)))
    for scale in (0.25, lambda spec: spec.m / 48):
        tx = lro.scale_by_low_rank(optax.identity(), lro.projections.dct(2), scale=scale)
        updates, _ = tx.update(draw(0), tx.init(draw(0)))
        np.testing.assert_allclose(updates, 0.25 * once, rtol=1e-6)


def test_leaves_that_are_no_matrices_pass_through():
    tx = lro.scale_by_trion(2)
    params = {"w": draw(0), "b": jnp.arange(3.0), "embed": draw(1)}
    updates, _ = tx.update(params, tx.init(params))
    chex.assert_trees_all_equal(updates["b"], params["b"])
    chex.assert_trees_all_equal(updates["embed"], params["embed"])
    assert not np.allclose(updates["w"], params["w"])


def test_no_array_of_n_by_n_is_in_the_state_or_in_a_compiled_constant():
    m, n = 192, 96
    params = jax.ShapeDtypeStruct((n, m), jnp.float32)
    for tx in (lro.trion(0.1, 16), lro.dct_adamw(0.1, 16)):
        state = jax.eval_shape(tx.init, params)
        assert not [leaf for leaf in jax.tree.leaves(state) if leaf.shape[-2:] == (n, n)]
        text = jax.jit(tx.update).lower(params, state).compile().as_text()
        constants = [line for line in text.splitlines() if " constant(" in line]
        assert not [line for line in constants if f"[{n},{n}]" in line]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"update_interval": 0}, ValueError, "update_interval=0 must be at least 1"),
        ({"transport": "teleport"}, ValueError, "transport='teleport' is unknown; use one of"),
    ],
)
def test_bad_arguments_are_explained(arguments, error, message):
    with pytest.raises(error, match=message):
        lro.scale_by_low_rank(optax.identity(), lro.projections.dct(2), **arguments)


def test_an_unknown_shape_scale_is_explained():
    with pytest.raises(ValueError, match="shape_scale='adam' is unknown; use one of"):
        lro.trion(0.1, shape_scale="adam")


@pytest.mark.parametrize("argument", ["momentum", "residual_decay"])
def test_a_decay_outside_its_range_is_explained(argument):
    with pytest.raises(ValueError, match=rf"{argument}=1.5 must lie in \[0, 1\]"):
        lro.trion(0.1, **{argument: 1.5})

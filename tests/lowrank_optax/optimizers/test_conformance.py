"""What every named optimizer promises to a user of optax."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
import pytest
from methods import compiled
from named_optimizers import (
    NAMES,
    NUMBERS,
    OPTIMIZERS,
    each_optimizer,
    model,
    not_in_the_suite,
    one_half,
    one_of,
    other_half,
)

# What fixes shapes or the program, as in optax's own suite.
STATIC = ("rank", "ns_steps", "dimension_numbers")


@functools.cache
def run(name, dtype="float32"):
    """Optimizer, parameters and state after a few steps; shared by the tests that only look."""
    tx = compiled(OPTIMIZERS[name](rank=2, dimension_numbers=NUMBERS))
    params = model(0, dtype)
    state = tx.init(params)
    for step in range(3):
        updates, state = tx.update(model(step + 1, dtype), state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return tx, params, state


@pytest.mark.product(every=3)
@pytest.mark.parametrize(("name", "dtype"), one_of(["float32", "bfloat16", "float16"]))
def test_state_and_updates_keep_shape_dtype_and_structure(name, dtype):
    tx, params, state = run(name, dtype)
    updates, new_state = tx.update(model(9, dtype), state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(params))
    chex.assert_tree_all_finite((updates, new_state))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))


@one_half
def test_init_works_on_shapes_alone(name):
    tx, params, state = run(name)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(tx.init, shapes), state)


@each_optimizer
def test_extra_arguments_are_accepted(name):
    tx, params, state = run(name)
    step = functools.partial(tx.update, model(1), state, params)
    assert jax.eval_shape(functools.partial(step, unexpected=1)) == jax.eval_shape(step)


@each_optimizer
def test_a_second_call_compiles_nothing(name):
    tx, params, state = run(name)
    before = tx.update._cache_size()
    tx.update(model(1), state, params)
    assert tx.update._cache_size() == before


@other_half
def test_state_is_stable_under_cond_and_scan(name):
    tx, params, state = run(name)
    grads = model(5)

    def body(carry, flag):
        step = lambda: tx.update(grads, carry, params)
        skip = lambda: (jax.tree.map(jnp.zeros_like, grads), carry)
        updates, carry = jax.lax.cond(flag, step, skip)
        return carry, updates

    final, _ = jax.jit(lambda s: jax.lax.scan(body, s, jnp.array([False, True])))(state)
    chex.assert_trees_all_close(final, tx.update(grads, state, params)[1], rtol=1e-5, atol=1e-6)


@each_optimizer
def test_mapping_over_the_state_of_the_parameters_works(name):
    tx, _, state = run(name)
    chex.assert_trees_all_equal(optax.tree.map_params(tx, lambda x: x, state), state)


@functools.cache
def first_step(name):
    tx, params = run(name)[0], model(0)
    return tx.update(model(1), tx.init(params), params)[0]


@not_in_the_suite
def test_injected_hyperparameters_give_the_same_step(name):
    make, params = OPTIMIZERS[name], model(0)
    static = set(STATIC) & set(inspect.signature(make.func).parameters)
    injected = optax.inject_hyperparams(make.func, static_args=static)(
        *make.args, **make.keywords, rank=2, dimension_numbers=NUMBERS
    )
    updates, _ = jax.jit(injected.update)(model(1), jax.jit(injected.init)(params), params)
    chex.assert_trees_all_close(updates, first_step(name), rtol=1e-4, atol=1e-6)


@not_in_the_suite
def test_a_schedule_equals_the_constant_and_multisteps_averages(name):
    make, params = OPTIMIZERS[name], model(0)
    scheduled = optax.MultiSteps(
        make.func(
            optax.constant_schedule(make.args[0]), 2, dimension_numbers=NUMBERS, **make.keywords
        ),
        2,
    )
    state = jax.jit(scheduled.init)(params)
    step = jax.jit(scheduled.update)
    zero, state = step(model(1), state, params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(zero))
    updates, _ = step(model(1), state, params)
    chex.assert_trees_all_close(updates, first_step(name), rtol=1e-4, atol=1e-6)


@one_half
def test_it_can_be_vmapped_over_models(name):
    tx = run(name)[0]
    models = jax.tree.map(lambda *leaves: jnp.stack(leaves), model(2), model(1))
    step = lambda params, grads: tx.update(grads, tx.init(params), params)[0]
    updates = jax.jit(jax.vmap(step))(models, models)
    expected = jax.tree.map(lambda leaf: leaf[1], updates)
    chex.assert_trees_all_close(expected, first_step(name), rtol=1e-4, atol=1e-6)


@other_half
def test_it_combines_with_optax_wrappers(name):
    params, grads = model(0), model(1)
    nan = jax.tree.map(lambda leaf: leaf * jnp.nan, grads)
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.apply_if_finite(
            optax.partition(
                {"low rank": OPTIMIZERS[name](rank=2), "frozen": optax.set_to_zero()},
                {leaf: "low rank" if leaf in ("wide", "bias") else "frozen" for leaf in params},
            ),
            max_consecutive_errors=2,
        ),
    )
    state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
    updates, state = update(nan, state, params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(updates))
    updates, state = update(grads, state, params)
    chex.assert_tree_all_finite((updates, state))
    assert updates["wide"].any()
    assert not updates["row"].any()


@each_optimizer
def test_empty_trees_and_trees_without_matrices_work(name):
    tx = OPTIMIZERS[name](rank=2)
    assert tx.update({}, tx.init({}), {})[0] == {}
    params = {"bias": jnp.ones(3), "nothing": None}
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    assert updates["bias"].shape == (3,)


# The arrays of other states are in test_combinations.py.
@pytest.mark.parametrize(
    "name", [one for one in NAMES if one.id in ("galore", "dct_adamw 4 bits", "dion3", "alice0")]
)
def test_a_checkpoint_restores_the_state_and_the_next_steps_bit_for_bit(name, tmp_path):
    tx, params, state = run(name)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(tx.init, params))
    chex.assert_trees_all_equal(restored, state)
    after, expected = (tx.update(model(7), s, params) for s in (restored, state))
    chex.assert_trees_all_equal(after, expected)

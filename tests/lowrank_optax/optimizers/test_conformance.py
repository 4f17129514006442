"""What every named optimizer promises to a user of optax; a new one adds a line to the list."""

import functools
import inspect
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from covers import in_turn
from drawing import draw
from methods import METHODS, QUICK
from optax.contrib import MuonDimensionNumbers

import lowrank_optax as lro

OPTIMIZERS = {
    "trion": functools.partial(lro.trion, 1e-2),
    "dct_adamw": functools.partial(lro.dct_adamw, 1e-2),
    "dct_adamw 4 bits": functools.partial(
        lro.dct_adamw, 1e-2, error_feedback="int4", update_interval=2
    ),
    "dion": functools.partial(lro.dion, 1e-2),
    "galore": functools.partial(lro.galore, 1e-1, update_interval=3, method="gram"),
    "galore hybrid": functools.partial(lro.galore, 1e-1, update_interval=3, select="hybrid"),
    "golore": functools.partial(lro.golore, 1e-1, update_interval=3, random_after=4),
    "ldadamw": functools.partial(lro.ldadamw, 1e-2),
    "frugal": functools.partial(lro.frugal, 1e-2, update_interval=3),
    "fira": functools.partial(lro.fira, 1e-2, update_interval=3),
    "online_subspace_descent": functools.partial(
        lro.online_subspace_descent, 1e-1, projection_optimizer=optax.adam(0.1)
    ),
    "tandem": functools.partial(lro.tandem, 1e-2),
    "tandem 4 bits": functools.partial(lro.tandem, 1e-2, rest="sinkhorn", mu_dtype="int4"),
    "dion3": functools.partial(lro.dion3, 1e-2, mu_dtype="int8"),
    "apollo": functools.partial(lro.apollo, 1e-1, update_interval=3),
    "alice0": functools.partial(lro.alice0, 1e-1, update_interval=3, method="gram"),
    "low_rank": functools.partial(
        lro.low_rank, 1e-2, update_interval=3, stagger=True, inner="lion", transport="rotate"
    ),
}
# What fixes shapes or the program, as in optax's own suite.
STATIC = ("rank", "ns_steps", "dimension_numbers")

# Odd sizes, one row, stacked squares, heads; and leaves that are no matrices.
NUMBERS = {
    "wide": MuonDimensionNumbers(0, 1),
    "row": MuonDimensionNumbers(0, 1),
    "stack": MuonDimensionNumbers(1, 2),
    "heads": MuonDimensionNumbers(0, (1, 2)),
    "bias": None,
    "scalar": None,
    "nothing": None,
}
SHAPES = {
    "wide": (9, 4),
    "row": (1, 6),
    "stack": (2, 6, 6),
    "heads": (8, 2, 3),
    "bias": (7,),
    "scalar": (),
}

NAMES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow, id=name)
    for name in OPTIMIZERS
]

each_optimizer = pytest.mark.parametrize(
    "make", [pytest.param(OPTIMIZERS[one.values[0]], id=one.id, marks=one.marks) for one in NAMES]
)
# Of the others optax's own suite asks the same: test_optax_suite.py.
NOT_IN_THE_SUITE = [one for one in NAMES if one.id in QUICK or one.id not in METHODS]


def one_of(values):
    """(name, value): every optimizer with one value in turn, those of `QUICK` with all."""
    others = [name for name in OPTIMIZERS if name not in QUICK]
    quick = itertools.product(QUICK, values)
    slow = (pytest.param(*case, marks=pytest.mark.slow) for case in in_turn(others, values))
    return [*quick, *slow]


def model(seed, dtype=jnp.float32, scale=1.0):
    leaves = {
        name: jnp.asarray(scale * np.asarray(draw(shape, 10 * seed + i)), dtype)
        for i, (name, shape) in enumerate(SHAPES.items())
    }
    return leaves | {"nothing": None}


def build(make, rank=2, numbers=NUMBERS, **settings):
    """The optimizer, with compiled functions: eager ones would compile every operation."""
    tx = make(rank=rank, dimension_numbers=numbers, **settings)
    return optax.GradientTransformationExtraArgs(jax.jit(tx.init), jax.jit(tx.update))


@functools.cache
def run(name, dtype="float32"):
    """Optimizer, parameters and state after a few steps; shared by the tests that only look."""
    tx = build(OPTIMIZERS[name])
    params = model(0, dtype)
    state = tx.init(params)
    for step in range(3):
        updates, state = tx.update(model(step + 1, dtype), state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return tx, params, state


@pytest.mark.parametrize(("name", "dtype"), one_of(["float32"]) + one_of(["bfloat16", "float16"]))
def test_state_and_updates_keep_shape_dtype_and_structure(name, dtype):
    tx, params, state = run(name, dtype)
    updates, new_state = tx.update(model(9, dtype), state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(params))
    chex.assert_tree_all_finite((updates, new_state))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("name", NAMES)
def test_init_works_on_shapes_alone(name):
    tx, params, state = run(name)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(tx.init, shapes), state)


@pytest.mark.parametrize("name", NAMES)
def test_extra_arguments_are_accepted(name):
    tx, params, state = run(name)
    step = functools.partial(tx.update, model(1), state, params)
    assert jax.eval_shape(functools.partial(step, unexpected=1)) == jax.eval_shape(step)


@pytest.mark.parametrize("name", NAMES)
def test_a_second_call_compiles_nothing(name):
    tx, params, state = run(name)
    before = tx.update._cache_size()
    tx.update(model(1), state, params)
    assert tx.update._cache_size() == before


@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.parametrize("name", NAMES)
def test_mapping_over_the_state_of_the_parameters_works(name):
    tx, _, state = run(name)
    chex.assert_trees_all_equal(optax.tree.map_params(tx, lambda x: x, state), state)


@functools.cache
def first_step(name):
    tx, params = run(name)[0], model(0)
    return tx.update(model(1), tx.init(params), params)[0]


@pytest.mark.parametrize("name", NOT_IN_THE_SUITE)
def test_injected_hyperparameters_give_the_same_step(name):
    make, params = OPTIMIZERS[name], model(0)
    static = set(STATIC) & set(inspect.signature(make.func).parameters)
    injected = optax.inject_hyperparams(make.func, static_args=static)(
        *make.args, **make.keywords, rank=2, dimension_numbers=NUMBERS
    )
    updates, _ = jax.jit(injected.update)(model(1), jax.jit(injected.init)(params), params)
    chex.assert_trees_all_close(updates, first_step(name), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NOT_IN_THE_SUITE)
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


@pytest.mark.parametrize(("name", "rank"), one_of([1, 6, 1.0]))
def test_zero_gradients_and_ranks_from_one_to_full_stay_finite(name, rank):
    tx = build(OPTIMIZERS[name], rank=rank)
    params = model(0)
    state = tx.init(params)
    for grads in (
        optax.tree.zeros_like(params),
        model(1),
        model(2, scale=1e-20),
        model(3, scale=1e18),
    ):
        updates, state = tx.update(grads, state, params)
        chex.assert_tree_all_finite((updates, state))


# Random draws and staggered schedules go by leaf, and stacked matrices are one leaf.
BY_LEAF = ("dion", "galore hybrid", "low_rank", "apollo", "alice0")


@pytest.mark.parametrize("name", [one for one in NAMES if one.values[0] not in BY_LEAF])
def test_stacked_layers_step_like_separate_matrices(name):
    make = OPTIMIZERS[name]
    grads = [model(seed)["stack"] for seed in range(3)]
    together = steps(make(rank=2, dimension_numbers=MuonDimensionNumbers(1, 2)), grads)
    separate = steps(
        make(rank=2, dimension_numbers=MuonDimensionNumbers(0, 1)),
        [tuple(grad) for grad in grads],
    )
    for updates, expected in zip(together, separate, strict=True):
        chex.assert_trees_all_close(updates, jnp.stack(expected), rtol=1e-4, atol=1e-6)


def steps(tx, grads):
    state = jax.jit(tx.init)(grads[0])
    update = jax.jit(tx.update)
    taken = []
    for grad in grads:
        updates, state = update(grad, state, grads[0])
        taken.append(updates)
    return taken


@each_optimizer
def test_the_layout_of_the_kernel_does_not_matter(make):
    grads = [model(seed)["wide"] for seed in range(3)]
    as_jax = steps(make(rank=2, dimension_numbers=MuonDimensionNumbers(0, 1)), grads)
    as_torch = steps(
        make(rank=2, dimension_numbers=MuonDimensionNumbers(1, 0)), [grad.T for grad in grads]
    )
    for updates, transposed in zip(as_jax, as_torch, strict=True):
        chex.assert_trees_all_close(updates, transposed.T, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_vmapped_over_models(name):
    tx = run(name)[0]
    models = jax.tree.map(lambda *leaves: jnp.stack(leaves), model(2), model(1))
    step = lambda params, grads: tx.update(grads, tx.init(params), params)[0]
    updates = jax.jit(jax.vmap(step))(models, models)
    expected = jax.tree.map(lambda leaf: leaf[1], updates)
    chex.assert_trees_all_close(expected, first_step(name), rtol=1e-4, atol=1e-6)


@each_optimizer
def test_it_combines_with_optax_wrappers(make):
    params, grads = model(0), model(1)
    nan = jax.tree.map(lambda leaf: leaf * jnp.nan, grads)
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.apply_if_finite(
            optax.partition(
                {"low rank": make(rank=2), "frozen": optax.set_to_zero()},
                {name: "low rank" if name in ("wide", "bias") else "frozen" for name in params},
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
def test_empty_trees_and_trees_without_matrices_work(make):
    tx = make(rank=2)
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


@pytest.mark.parametrize("name", NOT_IN_THE_SUITE)
def test_it_descends_a_matrix_parabola(name):
    target = model(3)
    loss = lambda p: sum(jnp.sum((p[k] - target[k]) ** 2) for k in SHAPES)
    decay = optax.scale_by_schedule(optax.linear_schedule(1.0, 0.0, 3000))
    tx = optax.chain(build(OPTIMIZERS[name]), decay)

    @jax.jit
    def train(params):
        def body(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, tx.init(params)), length=3000)[0][0]

    params = optax.tree.zeros_like(target)
    assert loss(train(params)) < 0.01 * loss(params)


def few(*names):
    """Some of the parameters, and their dimension numbers."""
    return tuple({name: tree[name] for name in names} for tree in (model(0), NUMBERS))


@each_optimizer
def test_weight_decay_is_decoupled_and_follows_its_mask(make):
    params, numbers = few("wide", "row", "bias")
    grads = optax.tree.zeros_like(params)
    mask = {name: name != "wide" for name in params}
    tx = make(rank=2, dimension_numbers=numbers, weight_decay=0.1, mask=mask)
    updates = jax.jit(lambda x, params: tx.update(x, tx.init(params), params)[0])(grads, params)
    for name in params:
        expected = (
            -make.args[0] * 0.1 * params[name] if name != "wide" else jnp.zeros(SHAPES["wide"])
        )
        chex.assert_trees_all_close(updates[name], expected, atol=1e-7)


@each_optimizer
def test_the_fallback_is_the_users_choice(make):
    params, numbers = few("wide", "bias")
    tx = make(rank=2, dimension_numbers=numbers, fallback=optax.sgd(1.0))
    updates = jax.jit(lambda params: tx.update(params, tx.init(params), params)[0])(params)
    chex.assert_trees_all_equal(updates["bias"], -params["bias"])

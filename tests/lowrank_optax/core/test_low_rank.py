"""The engine: refresh schedule, transport of moments, inner optimizers, and what it compiles to."""

import functools
import itertools

import chex
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw
from methods import compiled
from subspaces import chosen

import lowrank_optax as lro

SHAPE = (6, 12)
KERNELS = optax.contrib.MuonDimensionNumbers(-2, -1)


def states(tx, steps=7):
    state = jax.jit(tx.init)(draw(SHAPE))
    update = jax.jit(tx.update)
    seen = []
    for step in range(steps):
        _, state = update(draw(SHAPE, step), state, draw(SHAPE))
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
        S = projection.analyze(draw(SHAPE, step), jnp.float32)
        best.append(np.asarray(chosen(projection, S, 2)))
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
    bases = [np.asarray(lro.matrix_states(state)[0].basis) for state in states(tx)]
    changed = [not np.array_equal(bases[i], bases[i - 1]) for i in range(1, 7)]
    assert [i for i, flag in enumerate(changed, 1) if flag] == [2, 5]


def conditionals(jaxpr):
    """The `cond`s of a jaxpr that run at every step, those of functions that it calls included."""
    found = []
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        # One among platforms is decided when it is compiled.
        if name == "cond" and equation.params.get("branches_platforms") is None:
            found.append(equation)
            continue
        called = jax.extend.core.jaxprs_in_params(equation.params)
        inside = [c for jaxpr in called for c in conditionals(jaxpr)]
        assert name not in ("scan", "while") or not inside
        found += inside
    return found


@pytest.mark.product
@pytest.mark.parametrize(
    ("count", "settings"),
    [
        pytest.param(0, {}, id="every step"),
        pytest.param(0, {"transport": "rotate"}, id="every step, rotate"),
        # One for each matrix,
        pytest.param(2, {"update_interval": 5}, id="interval"),
        # and one for all moments,
        pytest.param(3, {"update_interval": 5, "transport": "rotate"}, id="interval, rotate"),
        pytest.param(3, {"update_interval": 5, "transport": "reset"}, id="interval, reset"),
        # or for those of each matrix.
        pytest.param(2, {"update_interval": 5, "stagger": True}, id="staggered"),
        pytest.param(
            4, {"update_interval": 5, "stagger": True, "transport": "reset"}, id="staggered, reset"
        ),
        pytest.param(2, {"update_interval": lro.adaptive()}, id="adaptive"),
    ],
)
@pytest.mark.parametrize(
    ("projection", "work"),
    [(lro.projections.dct(2), "sort["), (lro.projections.svd(2), " svd[")],
    ids=["dct", "svd"],
)
def test_a_refresh_is_one_scalar_cond_for_each_matrix_outside_of_every_batch(
    projection, work, settings, count
):
    tx = lro.scale_by_low_rank(
        optax.scale_by_adam(), projection, dimension_numbers=KERNELS, **settings
    )
    params = {"one": jnp.zeros(SHAPE), "stack": jnp.zeros((3, *SHAPE))}
    found = conditionals(jax.make_jaxpr(tx.update)(params, tx.init(params)).jaxpr)
    assert len(found) == count
    assert {equation.invars[0].aval.shape for equation in found} <= {()}
    # Only a refresh ranks columns or factorises.
    branches = [[str(branch) for branch in equation.params["branches"]] for equation in found]
    chooses = [sorted(work in branch for branch in pair) for pair in branches]
    assert chooses.count([False, True]) == min(count, 2)


def test_the_key_stays_the_same_and_the_count_counts():
    tx = lro.scale_by_low_rank(optax.identity(), lro.projections.random(2))
    first, second, third = states(tx, 3)
    assert [int(state.count) for state in (first, second, third)] == [1, 2, 3]
    np.testing.assert_array_equal(first.key, third.key)
    assert np.any(first.basis != second.basis)


SEEDS = {
    "number": lambda number: number,
    "array": jnp.asarray,
    "raw key": jax.random.PRNGKey,
    "typed key": jax.random.key,
    "typed key of another kind": lambda number: jax.random.key(number, impl="rbg"),
}


@pytest.mark.product(every=5)
@pytest.mark.parametrize("seed", SEEDS.values(), ids=SEEDS)
def test_the_seed_is_a_number_or_a_key_of_any_kind_and_fixes_what_is_random(seed):
    def start(number):
        make = lambda: lro.scale_by_low_rank(
            optax.identity(), lro.projections.random(2), seed=seed(number)
        )
        state = states(make(), 1)[0]
        np.testing.assert_array_equal(state.basis, states(make(), 1)[0].basis)
        return state.basis

    assert float(lro.diagnostics.subspace_overlap(start(0), start(1))) < 0.99


def test_a_number_and_its_keys_are_the_same_seed():
    bases = [
        states(lro.scale_by_low_rank(optax.identity(), lro.projections.random(2), seed=seed), 1)
        for seed in (7, jax.random.PRNGKey(7), jax.random.key(7))
    ]
    for (state,) in bases[1:]:
        np.testing.assert_array_equal(state.basis, bases[0][0].basis)


@pytest.mark.product(every=3)
@pytest.mark.parametrize(
    "make",
    [
        lambda seed: lro.dion(0.1, 2, seed=seed),
        lambda seed: lro.golore(0.1, 2, seed=seed),
        lambda seed: lro.frugal(0.1, 2, projection="random", seed=seed),
    ],
    ids=["dion", "golore", "frugal"],
)
def test_methods_draw_by_their_seed(make):
    def basis(seed):
        (state,) = states(make(seed), 1)
        return lro.matrix_states(state)[0].basis

    assert np.max(np.abs(basis(0) - basis(1))) > 1e-3
    np.testing.assert_array_equal(basis(jax.random.key(1)), basis(1))


def test_reset_starts_the_inner_optimizer_anew_at_every_refresh():
    tx = lro.scale_by_low_rank(
        optax.scale_by_adam(), lro.projections.dct(2), update_interval=3, transport="reset"
    )
    assert [int(state.inner.count) for state in states(tx)] == [1, 2, 3, 1, 2, 3, 1]


@pytest.mark.product(every=4)
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
    tx = compiled(lro.scale_by_low_rank(optax.scale_by_adam(), lro.projections.dct(1.0)))
    adam = compiled(optax.scale_by_adam())
    turned = lambda x: lro.orthogonal_dct(x, axis=-2)
    state, adam_state = tx.init(draw(SHAPE)), adam.init(draw(SHAPE))
    for step in range(4):
        updates, state = tx.update(draw(SHAPE, step), state)
        expected, adam_state = adam.update(turned(draw(SHAPE, step)), adam_state)
        np.testing.assert_allclose(turned(updates), expected, atol=2e-5)


def test_scale_may_be_a_number_or_depend_on_the_matrix():
    G = draw(SHAPE)

    @functools.partial(jax.jit, static_argnums=0)
    def scaled(scale):
        tx = lro.scale_by_low_rank(optax.identity(), lro.projections.dct(2), scale=scale)
        return tx.update(G, tx.init(G))[0]

    for scale in (0.25, lambda spec: spec.m / 48):
        np.testing.assert_allclose(scaled(scale), 0.25 * scaled(1.0), rtol=1e-6)


def test_leaves_that_are_no_matrices_pass_through():
    tx = lro.scale_by_trion(2)
    params = {"w": draw(SHAPE), "b": jnp.arange(3.0), "embed": draw(SHAPE, 1)}
    updates, _ = tx.update(params, tx.init(params))
    chex.assert_trees_all_equal(updates["b"], params["b"])
    chex.assert_trees_all_equal(updates["embed"], params["embed"])
    assert not np.allclose(updates["w"], params["w"])


def test_no_array_of_n_by_n_is_in_the_state_or_in_a_compiled_constant():
    n, m = 96, 192
    params = jax.ShapeDtypeStruct((n, m), jnp.float32)
    for tx in (lro.trion(0.1, 16), lro.dct_adamw(0.1, 16)):
        state = jax.eval_shape(tx.init, params)
        assert not [leaf for leaf in jax.tree.leaves(state) if leaf.shape[-2:] == (n, n)]
        text = jax.jit(tx.update).lower(params, state).compile().as_text()
        constants = [line for line in text.splitlines() if " constant(" in line]
        assert not [line for line in constants if f"[{n},{n}]" in line]


@pytest.mark.product(every=9)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_inner_optimizer_sees_low_rank_arrays_of_at_least_float32(dtype):
    seen = []

    def update(updates, state, params=None):
        seen.append((updates, params))
        return updates, state

    inner = optax.GradientTransformation(lambda params: seen.append((params,)) or (), update)
    tx = lro.scale_by_low_rank(inner, lro.projections.dct(2), dimension_numbers=KERNELS)
    params = {"w": draw(SHAPE, dtype=dtype), "stack": draw((3, 9, 4), dtype=dtype)}
    state = tx.init(params)
    updates, _ = tx.update(params, state, params)
    for tree in itertools.chain.from_iterable(seen):
        assert {name: (leaf.shape, leaf.dtype.name) for name, leaf in tree.items()} == {
            "w": ((2, 12), "float32"),
            "stack": ((3, 2, 9), "float32"),
        }
    coordinates = seen[-1][1]
    chex.assert_trees_all_close(coordinates, seen[-1][0])  # the parameters are the gradients here
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)


def test_steps_may_be_wider_than_the_gradients_for_what_follows_in_a_chain():
    params = draw(SHAPE, dtype=jnp.bfloat16)
    tx = lro.scale_by_low_rank(optax.identity(), lro.projections.dct(2), step_dtype="float32")
    updates, _ = tx.update(params, tx.init(params))
    assert updates.dtype == jnp.float32


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
    with pytest.raises(ValueError, match=rf"{argument}=None must be a number in \[0, 1\]"):
        lro.trion(0.1, **{argument: None})

"""What the steps of every named optimizer do, and what they do not depend on."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from methods import compiled, trajectory
from named_optimizers import (
    NAMES,
    NUMBERS,
    OPTIMIZERS,
    SHAPES,
    each_optimizer,
    model,
    not_in_the_suite,
    one_of,
)
from optax.contrib import MuonDimensionNumbers


@pytest.mark.product(every=99)
@pytest.mark.parametrize(("name", "rank"), one_of([1, 6, 1.0]))
def test_zero_gradients_and_ranks_from_one_to_full_stay_finite(name, rank):
    tx = compiled(OPTIMIZERS[name](rank=rank, dimension_numbers=NUMBERS))
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
    tx = compiled(tx)
    state = tx.init(grads[0])
    taken = []
    for grad in grads:
        updates, state = tx.update(grad, state, grads[0])
        taken.append(updates)
    return taken


@each_optimizer
def test_the_layout_of_the_kernel_does_not_matter(name):
    make = OPTIMIZERS[name]
    grads = [model(seed)["wide"] for seed in range(3)]
    as_jax = steps(make(rank=2, dimension_numbers=MuonDimensionNumbers(0, 1)), grads)
    as_torch = steps(
        make(rank=2, dimension_numbers=MuonDimensionNumbers(1, 0)), [grad.T for grad in grads]
    )
    for updates, transposed in zip(as_jax, as_torch, strict=True):
        chex.assert_trees_all_close(updates, transposed.T, rtol=1e-5, atol=1e-7)


@not_in_the_suite
def test_it_descends_a_matrix_parabola(name):
    target = model(3)
    loss = lambda p: sum(jnp.sum((p[k] - target[k]) ** 2) for k in SHAPES)
    decay = optax.scale_by_schedule(optax.linear_schedule(1.0, 0.0, 3000))
    tx = optax.chain(OPTIMIZERS[name](rank=2, dimension_numbers=NUMBERS), decay)
    params = optax.tree.zeros_like(target)
    reached, _ = trajectory(tx, params, lambda p, step: jax.grad(loss)(p), 3000)
    assert loss(reached) < 0.01 * loss(params)


def few(*names):
    """Some of the parameters, and their dimension numbers."""
    return tuple({name: tree[name] for name in names} for tree in (model(0), NUMBERS))


@each_optimizer
def test_weight_decay_is_decoupled_and_follows_its_mask(name):
    make = OPTIMIZERS[name]
    params, numbers = few("wide", "row", "bias")
    grads = optax.tree.zeros_like(params)
    mask = {leaf: leaf != "wide" for leaf in params}
    tx = make(rank=2, dimension_numbers=numbers, weight_decay=0.1, mask=mask)
    updates = jax.jit(lambda x, params: tx.update(x, tx.init(params), params)[0])(grads, params)
    for leaf, decayed in mask.items():
        expected = -make.args[0] * 0.1 * decayed * params[leaf]
        chex.assert_trees_all_close(updates[leaf], expected, atol=1e-7)


@each_optimizer
def test_the_fallback_is_the_users_choice(name):
    params, numbers = few("wide", "bias")
    tx = OPTIMIZERS[name](rank=2, dimension_numbers=numbers, fallback=optax.sgd(1.0))
    updates = jax.jit(lambda params: tx.update(params, tx.init(params), params)[0])(params)
    chex.assert_trees_all_equal(updates["bias"], -params["bias"])

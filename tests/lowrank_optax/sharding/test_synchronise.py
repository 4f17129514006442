"""Promises of sync="low_rank": what the devices agree on, what they keep, and what they send."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from layouts import mesh_of
from methods import compiled

import lowrank_optax as lro
from benchmarks.collectives import collectives

DEVICES, M, N, RANK = 4, 24, 16, 4
METHODS = {"trion": lro.trion, "dion": lro.dion}


def problem(devices):
    """Parameters, and gradients that differ from device to device, stacked."""
    keys = iter(jax.random.split(jax.random.key(0), 9))
    params = {"w": jax.random.normal(next(keys), (N, M)), "bias": jnp.ones(5)}
    draw = lambda x: jax.random.normal(next(keys), (devices, *x.shape))
    return params, [jax.tree.map(draw, params) for _ in range(3)]


def synchronised(tx, params, devices):
    """(state, jitted update) with every device's own gradient along the first axis."""
    specs = lro.local_state_specs(tx, params)
    mesh = mesh_of({"data": devices})
    init = jax.shard_map(tx.init, mesh=mesh, in_specs=P(), out_specs=specs)

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(P("data"), specs, P()), out_specs=(P(), specs)
    )
    def update(stacked, state, params):
        own = jax.tree.map(lambda x: x[0], stacked)
        return tx.update(own, state, params)

    return jax.jit(init)(params), jax.jit(update)


def momentum(state):
    return lro.matrix_states(state)[0].residual["w"]


@pytest.mark.product(every=2)
@pytest.mark.parametrize("method", METHODS)
def test_one_device_steps_as_without_synchronisation(method):
    """Up to the rounding of a differently compiled program."""
    params, gradients = problem(1)
    plain = METHODS[method](0.1, RANK)
    tx = METHODS[method](0.1, RANK, sync="low_rank")
    state, update = synchronised(tx, params, 1)
    expected_state = plain.init(params)
    for stacked in gradients:
        step, state = update(stacked, state, params)
        own = jax.tree.map(lambda x: x[0], stacked)
        expected, expected_state = jax.jit(plain.update)(own, expected_state, params)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), step, expected)
    np.testing.assert_allclose(momentum(state), momentum(expected_state), atol=1e-5)


@pytest.mark.product(every=2)
@pytest.mark.parametrize("method", METHODS)
def test_equal_gradients_everywhere_step_as_one_device(method):
    params, gradients = problem(1)
    plain = METHODS[method](0.1, RANK)
    state, update = synchronised(METHODS[method](0.1, RANK, sync="low_rank"), params, DEVICES)
    expected_state = plain.init(params)
    for stacked in gradients:
        everywhere = jax.tree.map(lambda x: jnp.repeat(x, DEVICES, 0), stacked)
        step, state = update(everywhere, state, params)
        own = jax.tree.map(lambda x: x[0], stacked)
        expected, expected_state = jax.jit(plain.update)(own, expected_state, params)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5), step, expected)


def test_dion_steps_as_if_the_gradients_had_been_averaged():
    """Its factors are linear in the momentum, so the mean of the devices' is what it sees."""
    params, gradients = problem(DEVICES)
    plain = lro.dion(0.1, RANK)
    state, update = synchronised(lro.dion(0.1, RANK, sync="low_rank"), params, DEVICES)
    expected_state = plain.init(params)
    for stacked in gradients:
        step, state = update(stacked, state, params)
        mean = jax.tree.map(lambda x: x.mean(0), stacked)
        expected, expected_state = jax.jit(plain.update)(mean, expected_state, params)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5), step, expected)


def test_trion_follows_the_mean_in_columns_chosen_by_the_mean_of_the_scores():
    params, gradients = problem(DEVICES)
    state, update = synchronised(lro.trion(1.0, RANK, sync="low_rank"), params, DEVICES)
    step, _ = update(gradients[0], state, params)
    S = lro.orthogonal_dct(gradients[0]["w"], -2)  # (devices, n, m)
    columns = jnp.sort(jnp.argsort(-jnp.abs(S).sum(-1).mean(0))[:RANK])
    o = lro.newton_schulz(S.mean(0)[columns])
    expected = -np.sqrt(M / N) * (lro.dct_columns(N, columns) @ o)
    np.testing.assert_allclose(step["w"], expected, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_devices_momenta_differ_and_their_mean_is_that_of_the_mean_gradient(method):
    params, gradients = problem(DEVICES)
    state, update = synchronised(METHODS[method](0.1, RANK, sync="low_rank"), params, DEVICES)
    _, state = update(gradients[0], state, params)
    own = momentum(state).reshape(DEVICES, N, M)
    assert float(jnp.abs(own - own[0]).max()) > 0.1
    if method == "dion":
        plain = compiled(lro.dion(0.1, RANK))
        mean = jax.tree.map(lambda x: x.mean(0), gradients[0])
        _, expected = plain.update(mean, plain.init(params), params)
        np.testing.assert_allclose(own.mean(0), momentum(expected), atol=2e-5)


@pytest.mark.parametrize(
    ("method", "floats"), [("trion", N + M * RANK), ("dion", M * RANK + N * RANK)]
)
def test_only_low_rank_arrays_are_sent(method, floats):
    params, gradients = problem(DEVICES)
    state, update = synchronised(METHODS[method](0.1, RANK, sync="low_rank"), params, DEVICES)
    found = collectives(update.lower(gradients[0], state, params).compile().as_text())
    assert {each.kind for each in found} == {"all-reduce"}
    assert sum(each.bytes for each in found) == 4 * (floats + params["bias"].size)


def test_training_on_local_gradients_lowers_the_loss():
    target = jax.random.normal(jax.random.key(1), (N, M))
    inputs = jax.random.normal(jax.random.key(2), (8 * DEVICES, N))
    params = {"w": jnp.zeros((N, M))}
    tx = lro.trion(optax.linear_schedule(0.5, 0.0, 300), RANK, sync="low_rank")
    specs = lro.local_state_specs(tx, params)
    mesh = mesh_of({"data": DEVICES})

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(P(), specs, P("data")), out_specs=(P(), specs, P())
    )
    def train(params, state, x):
        def step(carry, _):
            params, state = carry
            # Without this, differentiation averages the gradient over the devices by itself.
            own = jax.tree.map(lambda p: jax.lax.pcast(p, "data", to="varying"), params)
            loss = lambda p: jnp.mean(jnp.square(x @ (p["w"] - target)))
            value, gradient = jax.value_and_grad(loss)(own)
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), jax.lax.pmean(value, "data")

        (params, state), losses = jax.lax.scan(step, (params, state), length=300)
        return params, state, losses

    init = jax.shard_map(tx.init, mesh=mesh, in_specs=P(), out_specs=specs)
    _, _, losses = train(params, jax.jit(init)(params), inputs)
    assert losses[-1] < 0.02 * losses[0]


def test_outside_of_shard_map_the_missing_axis_is_named():
    tx = lro.trion(0.1, RANK, sync="low_rank", sync_axis="replicas")
    params = {"w": jnp.ones((N, M))}
    with pytest.raises(ValueError, match=r"axis 'replicas'.*inside jax\.shard_map"):
        tx.update(params, tx.init(params), params)


def test_an_unknown_kind_of_synchronisation_is_refused():
    with pytest.raises(ValueError, match="sync='full' is unknown; use one of"):
        lro.dion(0.1, RANK, sync="full")

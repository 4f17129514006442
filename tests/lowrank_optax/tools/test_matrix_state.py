"""The matrices' state is found by its type, whatever is around it."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import lowrank_optax as lro

PARAMS = {"b": jnp.ones(8), "w": jnp.ones((4, 8))}
TRION = lro.trion(0.1, 2)
WRAPPED = {
    "alone": lro.scale_by_trion(2),
    "named": TRION,
    "MultiSteps": optax.MultiSteps(TRION, 2),
    "inject_hyperparams": optax.inject_hyperparams(
        lambda learning_rate: lro.trion(learning_rate, 2)
    )(0.1),
    "masked": optax.masked(TRION, {"b": False, "w": True}),
    "apply_if_finite": optax.apply_if_finite(TRION, 2),
    "named chain": optax.named_chain(("clip", optax.clip(1.0)), ("trion", TRION)),
}


@pytest.mark.parametrize("tx", WRAPPED.values(), ids=WRAPPED)
def test_the_state_of_the_matrices_is_found(tx):
    (found,) = lro.matrix_states(tx.init(PARAMS))
    assert isinstance(found, lro.LowRankState)
    assert found.basis["w"].shape == (2,)


def test_several_are_found_in_their_order_and_none_in_a_state_without():
    labels = {"b": "first", "w": "first", "x": "second"}
    tx = optax.partition({"second": lro.trion(0.1, 3), "first": lro.trion(0.1, 2)}, labels)
    first, second = lro.matrix_states(tx.init(PARAMS | {"x": jnp.ones((4, 8))}))
    assert (first.basis["w"].shape, second.basis["x"].shape) == ((2,), (3,))
    assert lro.matrix_states(optax.adam(0.1).init(PARAMS)) == ()


def test_shapes_and_shardings_of_a_state_have_them_too():
    (shapes,) = lro.matrix_states(jax.eval_shape(TRION.init, PARAMS))
    assert shapes.basis["w"].dtype == jnp.int32
    sharding = NamedSharding(jax.make_mesh((1,), ("a",)), P())
    (places,) = lro.matrix_states(lro.state_shardings(TRION, PARAMS, sharding))
    assert places.basis["w"].is_fully_replicated

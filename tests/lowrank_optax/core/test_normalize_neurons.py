"""Steps whose output neurons move equally far."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw

from lowrank_optax import normalize_neurons

Numbers = optax.contrib.MuonDimensionNumbers


def restated(steps, b2=0.95):
    """NorMuon's second moment of steps (out, in), each at its own length."""
    nu = np.zeros((steps[0].shape[0], 1))
    for u in steps:
        u = np.asarray(u, np.float64)
        square = (u**2).mean(1, keepdims=True)
        nu = np.where(square > 0, b2 * nu + (1 - b2) * square, nu)
        normalized = u / (np.sqrt(nu) + 1e-8)
        yield normalized * np.linalg.norm(u) / np.linalg.norm(normalized)


@pytest.mark.product(every=3)
@pytest.mark.parametrize(("shape", "out"), [((5, 7), 1), ((7, 5), 1), ((5, 7), 0)])
def test_each_output_neuron_is_divided_by_its_history(shape, out):
    steps = [draw(shape, i) for i in range(4)]
    tx = normalize_neurons(dimension_numbers=Numbers(1 - out, out))
    state = tx.init(steps[0])
    turn = lambda x: x if out == 0 else x.T
    for u, expected in zip(steps, restated([turn(u) for u in steps]), strict=True):
        got, state = tx.update(u, state)
        np.testing.assert_allclose(turn(got), expected, rtol=1e-5)


def test_a_neuron_whose_step_is_zero_keeps_its_history():
    tx = normalize_neurons(dimension_numbers=Numbers())
    u = draw((4, 6), 0)
    _, first = tx.update(u, tx.init(u))
    got, second = tx.update(u.at[:, 2].set(0), first)
    assert second.nu[0, 2] == first.nu[0, 2] > 0
    assert not np.any(got[:, 2])


def test_matrices_of_a_stack_keep_their_own_lengths_and_other_leaves_pass():
    u = {"stack": draw((3, 4, 6), 1), "bias": draw((6,), 2)}
    u["stack"] *= jnp.array([1.0, 10.0, 0.0])[:, None, None]
    tx = normalize_neurons(dimension_numbers={"stack": Numbers(1, 2), "bias": None})
    got, state = tx.update(u, tx.init(u))
    lengths = lambda x: np.linalg.norm(x, axis=(1, 2))
    np.testing.assert_allclose(lengths(got["stack"]), lengths(u["stack"]), rtol=1e-6)
    np.testing.assert_array_equal(got["bias"], u["bias"])
    assert state.nu["stack"].shape == (3, 1, 6)


def test_half_precision_keeps_its_type_and_has_a_state_of_float32():
    u = draw((4, 6), 3, dtype=jnp.bfloat16)
    tx = normalize_neurons(dimension_numbers=Numbers())
    got, state = tx.update(u, tx.init(u))
    assert (got.dtype, state.nu.dtype) == (jnp.bfloat16, jnp.float32)


def test_a_decay_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"b2=1.5 must lie in \[0, 1\]"):
        normalize_neurons(1.5)


def test_a_matrix_without_a_gradient_keeps_its_history():
    params = {"a": draw((4, 6), 0), "b": draw((4, 6), 1)}
    tx = normalize_neurons(dimension_numbers={"a": Numbers(), "b": Numbers()})
    _, first = tx.update(params, tx.init(params), params)
    got, second = tx.update(params | {"a": None}, first, params)
    assert got["a"] is None
    np.testing.assert_array_equal(second.nu["a"], first.nu["a"])
    assert jnp.any(second.nu["b"] != first.nu["b"])

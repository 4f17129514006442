"""A projection and a residual written outside the package do what the ones inside do."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw

import lowrank_optax as lro
from benchmarks.pages import DOCS

spec = importlib.util.spec_from_file_location("own_parts", DOCS / "examples" / "own_parts.py")
own_parts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(own_parts)

STACKED = [("w", optax.contrib.MuonDimensionNumbers(1, 2))]


def test_its_transform_is_orthonormal_and_its_columns_are_those_of_the_transform():
    haar = own_parts.Haar(rank=3)
    G = draw((2, 8, 5), 0)
    S = jax.jit(haar.analyze, static_argnums=1)(G, jnp.float32)
    np.testing.assert_allclose(jax.jit(haar.synthesize)(S), G, atol=1e-6)
    Q = np.asarray(jax.jit(haar.synthesize)(jnp.eye(8)))
    np.testing.assert_allclose(Q.T @ Q, np.eye(8), atol=1e-6)
    np.testing.assert_allclose(S, Q.T @ np.asarray(G), atol=1e-5)
    indices = jnp.array([1, 4, 6], jnp.int32)
    columns = jax.jit(haar.columns, static_argnums=(1, 2))(indices, 8, jnp.float32)
    np.testing.assert_allclose(columns, Q[:, [1, 4, 6]], atol=1e-6)


def test_the_best_columns_are_chosen():
    """The gradient is in the span of two columns of the basis."""
    haar = own_parts.Haar(rank=2)
    G = haar.columns(jnp.array([2, 5], jnp.int32), 8, jnp.float32) @ draw((2, 6), 1)
    energy = jax.jit(lambda G: lro.diagnostics.captured_energy(G, haar))(G)
    assert float(energy) == pytest.approx(1, abs=1e-5)


def test_a_dimension_that_it_does_not_admit_is_named_with_its_parameter():
    with pytest.raises(ValueError, match=r"w of shape \(6, 9\): Haar needs a compressed dimension"):
        own_parts.steady_haar(0.1).init({"w": jnp.ones((6, 9))})


def test_together_they_fit_stacked_matrices():
    target = {"w": draw((3, 8, 12), 2)}
    tx = optax.chain(
        lro.scale_by_low_rank(
            optax.scale_by_adam(),
            own_parts.Haar(0.25),
            transport="rotate",
            residual=own_parts.Steady(weight=1.0),
            dimension_numbers=STACKED,
        ),
        optax.scale_by_learning_rate(0.05),
    )
    loss = lambda params: jnp.sum((params["w"] - target["w"]) ** 2)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), loss(params)

    start = {"w": jnp.zeros((3, 8, 12))}
    (_, state), losses = jax.jit(
        lambda start: jax.lax.scan(step, (start, tx.init(start)), length=150)
    )(start)
    assert losses[-1] < 0.1 * losses[0]
    (matrices,) = lro.matrix_states(state)
    assert matrices.basis["w"].shape == (3, 2)
    assert matrices.residual["w"]["mean"].shape == (3,)


def test_the_rest_is_divided_by_the_running_mean_of_its_length():
    """Outside a subspace of one column: two equal gradients, then one half as long again."""
    tx = lro.scale_by_low_rank(
        optax.identity(), own_parts.Haar(1), residual=own_parts.Steady(weight=1.0, beta=0.5)
    )
    haar = own_parts.Haar(1)
    gradient = lambda inside, outside: {
        "w": haar.synthesize(jnp.zeros((4, 4)).at[0].set(inside).at[3].set(outside))
    }
    state, update, shares = tx.init(gradient(0, 0)), jax.jit(tx.update), []
    for outside in (1.0, 1.0, 1.5):
        step, state = update(gradient(2.0, outside), state)
        S = haar.analyze(step["w"], jnp.float32)
        np.testing.assert_allclose(S[0], 2.0, rtol=1e-5)
        shares.append(float(S[3, 0]) / 2.0)
    # Means of the lengths by hand: 1, 1, and (1/8 + 1/4 + 3/4) / (7/8).
    np.testing.assert_allclose(shares, [1.0, 1.0, 1.5 * 7 / 9], rtol=1e-5)


def test_a_number_of_it_may_be_injected():
    make = lambda weight: lro.scale_by_low_rank(
        optax.identity(), own_parts.Haar(2), residual=own_parts.Steady(weight=weight)
    )
    params = {"w": draw((4, 8), 3)}
    injected, plain = optax.inject_hyperparams(make)(weight=0.5), make(0.5)
    got, _ = jax.jit(injected.update)(params, injected.init(params))
    expected, _ = jax.jit(plain.update)(params, plain.init(params))
    np.testing.assert_allclose(got["w"], expected["w"], rtol=1e-6)

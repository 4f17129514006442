"""Fixed orthogonal bases: their columns, the transform that is their product, and its order."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw
from fixed_bases import BASES, draw64, every_basis

import lowrank_optax as lro
from lowrank_optax import projections

pytestmark = pytest.mark.usefixtures("float64")


def in_order(projection, S):
    """Coefficients in the order of the basis' columns: a domain may have an order of its own."""
    order = projection.order(S.shape[-2])
    return S if order is None else S[..., np.argsort(order), :]


def both_ways(name, n):
    """Compiled: an array (2, n, m) there and back, some columns, and all of them."""
    projection = BASES[name](1)
    some = np.array([[n - 1, 0], [0, 0]])

    @jax.jit
    def program(A):
        S = projection.analyze(A, A.dtype)
        Q = projection.columns(jnp.arange(n), n, jnp.float64)
        dtypes = (jnp.float64, jnp.float32)
        batched, half = (projection.columns(jnp.asarray(some), n, dtype) for dtype in dtypes)
        return in_order(projection, S), projection.synthesize(S), Q, batched, half

    return some, program


@every_basis
def test_the_columns_are_an_orthogonal_matrix_and_the_transform_is_its_product(name):
    for n in (1, 8, 512) if name == "hadamard" else (1, 6, 7, 512):
        some, program = both_ways(name, n)
        A = np.asarray(draw64((2, n, 3)))
        S, back, Q, batched, half = map(np.asarray, program(A))
        np.testing.assert_allclose(Q.T @ Q, np.eye(n), atol=1e-12)
        np.testing.assert_allclose(S, Q.T @ A, atol=1e-12)
        np.testing.assert_allclose(back, A, atol=1e-12)
        np.testing.assert_array_equal(batched, np.stack([Q[:, some[0]], Q[:, some[1]]]))
        assert half.dtype == np.float32


@every_basis
def test_coefficients_come_in_the_dtype_that_analysis_is_told(name):
    G = draw((8, 4), dtype=jnp.bfloat16)
    analyze = jax.jit(BASES[name](1).analyze, static_argnums=1)
    S = analyze(G, jnp.float32)
    assert S.dtype == jnp.float32
    G = np.asarray(G, np.float64)
    exact = analyze(G, jnp.float64)
    # Products in half precision round the basis, by 2⁻⁹ of every entry.
    np.testing.assert_allclose(S, exact, atol=2**-9 * np.sum(np.abs(G), axis=0).max())


def test_the_order_of_a_domain_is_a_permutation_and_not_always_that_of_the_columns():
    order = projections.dct(1).order(512)
    np.testing.assert_array_equal(np.sort(order), np.arange(512))
    assert np.any(order != np.arange(512))


def test_an_unknown_kind_is_explained():
    with pytest.raises(ValueError, match="kind='IV' is unknown; use 'II' or 'III'"):
        projections.dct(4, kind="IV")


def test_a_hadamard_basis_names_the_parameter_whose_size_is_no_power_of_two():
    tx = lro.scale_by_low_rank(optax.scale_by_adam(), projections.hadamard(2))
    params = {"block": {"query": jnp.ones((12, 24)), "key": jnp.ones((8, 24))}}
    message = r"block/query of shape \(12, 24\): .* not n = 12; use projections.dct"
    with pytest.raises(ValueError, match=message):
        tx.init(params)


def test_a_random_orthogonal_basis_depends_on_its_seed_alone():
    first, same, other = (
        projections.random_orthogonal(2, seed=seed).columns(jnp.arange(2), 64, jnp.float32)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    assert float(jnp.linalg.norm(first.T @ other)) < 1  # √2 for equal subspaces
    with jax.enable_x64(False), jax.default_prng_impl("rbg"):
        elsewhere = projections.random_orthogonal(2, seed=0).columns(jnp.arange(2), 64, jnp.float32)
    np.testing.assert_allclose(elsewhere, first, atol=1e-6)


def test_a_random_orthogonal_basis_spreads_smooth_and_sparse_vectors_alike():
    n = 256
    x = jnp.stack([jnp.ones(n), jnp.cos(jnp.arange(n)), jnp.arange(n) == 5], axis=-1)
    x = x / jnp.linalg.norm(x, axis=0)
    S = projections.random_orthogonal(4).analyze(x, x.dtype)
    assert (jnp.max(jnp.abs(S), axis=0) < 5 / np.sqrt(n)).all()
    assert jnp.max(jnp.abs(lro.orthogonal_dct(x[:, 0]))) == pytest.approx(1.0)

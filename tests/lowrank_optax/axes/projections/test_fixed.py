"""The theory of projecting onto columns of a fixed orthogonal basis, for every such basis."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowrank_optax as lro

pytestmark = pytest.mark.usefixtures("float64")

projections = lro.projections
BASES = {
    "dct": projections.dct,
    "dct III": functools.partial(projections.dct, kind="III"),
    "hadamard": projections.hadamard,
    "identity": projections.identity,
    "random_orthogonal": functools.partial(projections.random_orthogonal, seed=3),
}
# Few shapes, so that compiled functions are shared between examples.
SHAPES = [(5, 1), (4, 6), (9, 7)]
POWERS_OF_TWO = [(5, 1), (6, 8)]
SEEDS = st.integers(0, 10**6)
SELECT = st.sampled_from(["l1", "l2", "importance", "hybrid", "uniform"])
every_basis = pytest.mark.parametrize("name", BASES)


def shapes(name):
    return st.sampled_from(POWERS_OF_TWO if name == "hadamard" else SHAPES)


def ranks(n):
    return st.sampled_from(sorted({1, max(1, n // 2), n}))


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def chosen(name, A, rank, select="l2"):
    projection = BASES[name](rank, select)
    S = projection.analyze(A)
    return projection, S, projection.refresh(S, None, rank, jax.random.key(0))


@every_basis
@pytest.mark.parametrize("n", [1, 8])
def test_the_columns_are_an_orthogonal_matrix_and_the_transform_is_its_product(name, n):
    projection = BASES[name](1)
    Q = projection.columns(jnp.arange(n), n, jnp.float64)
    np.testing.assert_allclose(Q.T @ Q, jnp.eye(n), atol=1e-12)
    A = draw(0, 2, 3, n)
    np.testing.assert_allclose(projection.analyze(A), A @ Q, atol=1e-12)
    np.testing.assert_allclose(projection.synthesize(A), A @ Q.T, atol=1e-12)
    some = jnp.array([[n - 1, 0], [0, 0]])
    batched = projection.columns(some, n, jnp.float64)
    np.testing.assert_array_equal(batched, jnp.stack([Q[:, some[0]], Q[:, some[1]]]))
    assert projection.columns(some, n, jnp.float32).dtype == jnp.float32


@every_basis
@settings(max_examples=6)
@given(seed=SEEDS, data=st.data())
def test_synthesis_undoes_analysis_and_both_keep_the_norm(name, seed, data):
    A = draw(seed, 2, *data.draw(shapes(name)))
    projection = BASES[name](1)
    S = projection.analyze(A)
    np.testing.assert_allclose(projection.synthesize(S), A, atol=1e-12)
    np.testing.assert_allclose(jnp.linalg.norm(S), jnp.linalg.norm(A), rtol=1e-12)


@every_basis
@settings(max_examples=12)
@given(seed=SEEDS, select=SELECT, data=st.data())
def test_up_after_down_is_an_orthogonal_projection(name, seed, select, data):
    shape = data.draw(shapes(name))
    n = shape[1]
    rank = data.draw(ranks(n))
    A = draw(seed, *shape)
    projection, _, basis = chosen(name, A, rank, select)
    down_up = lambda X: projection.lift(
        projection.project(projection.analyze(X), basis), basis, X.shape
    )
    P = down_up(jnp.eye(n))
    np.testing.assert_allclose(P @ P, P, atol=1e-12)
    np.testing.assert_allclose(P, P.T, atol=1e-12)
    np.testing.assert_allclose(jnp.trace(P), rank, atol=1e-9)
    np.testing.assert_allclose(down_up(A), A @ P, atol=1e-12)


@every_basis
@settings(max_examples=8)
@given(seed=SEEDS, data=st.data())
def test_the_l2_ranking_meets_the_contraction_bound(name, seed, data):
    shape = data.draw(shapes(name))
    n = shape[1]
    rank = data.draw(ranks(n))
    A = draw(seed, *shape)
    error = lro.diagnostics.projection_error(A, BASES[name](rank, "l2"))
    assert float(error) ** 2 <= (1 - rank / n) + 1e-12


@every_basis
@settings(max_examples=8)
@given(seed=SEEDS, select=SELECT, data=st.data())
def test_captured_energy_is_the_selected_columns_energy(name, seed, select, data):
    shape = data.draw(shapes(name))
    rank = data.draw(ranks(shape[1]))
    A = draw(seed, 3, *shape)
    projection, S, basis = chosen(name, A, rank, select)
    energies = jnp.sum(S**2, axis=-2)
    selected = jnp.take_along_axis(energies, basis, axis=-1).sum(-1)
    captured = lro.diagnostics.captured_energy(A, projection, basis)
    np.testing.assert_allclose(captured, selected / energies.sum(-1), rtol=1e-9)
    error = lro.diagnostics.projection_error(A, projection, basis)
    np.testing.assert_allclose(captured + error**2, 1.0, atol=1e-12)


@every_basis
@settings(max_examples=8)
@given(seed=SEEDS, inside=st.floats(-1, 1), outside=st.floats(-1, 1), data=st.data())
def test_reweighting_scales_the_two_parts_separately(name, seed, inside, outside, data):
    shape = data.draw(shapes(name))
    n = shape[1]
    rank = data.draw(ranks(n))
    A = draw(seed, *shape)
    projection, S, basis = chosen(name, A, rank)
    a = projection.project(S, basis)
    part = projection.lift(a, basis, A.shape)
    weighted = projection.synthesize(projection.reweight(S, a, basis, inside, outside))
    np.testing.assert_allclose(weighted, inside * part + outside * (A - part), atol=1e-12)


@every_basis
@settings(max_examples=8)
@given(seed=SEEDS, n=st.sampled_from([1, 8]), data=st.data())
def test_carrying_moves_kept_coordinates_exactly_and_zeroes_new_ones(name, seed, n, data):
    rank = data.draw(ranks(n))
    rng = np.random.default_rng(seed)
    previous, current = (
        np.sort(rng.choice(n, size=rank, replace=False)).astype(np.int32) for _ in range(2)
    )
    x = draw(seed, 4, rank)
    projection = BASES[name](rank)
    moved = projection.carry(x, jnp.asarray(previous), jnp.asarray(current))
    Q = projection.columns(jnp.arange(n), n, jnp.float64)
    np.testing.assert_allclose(moved, x @ Q[:, previous].T @ Q[:, current], atol=1e-12)
    for slot, column in enumerate(current):
        kept = np.flatnonzero(previous == column)
        expected = np.asarray(x[:, kept[0]]) if kept.size else np.zeros(4)
        np.testing.assert_array_equal(moved[:, slot], expected)
    overlap = projection.overlap(jnp.asarray(previous), jnp.asarray(current))
    assert float(overlap) == pytest.approx(np.isin(current, previous).mean())


@every_basis
def test_every_operation_is_batched_like_a_loop(name):
    A, rank = draw(0, 2, 3, 5, 8), 2
    projection, S, basis = chosen(name, A, rank)
    u = projection.project(S, basis)
    other = basis[::-1]
    lifted, carried = projection.lift(u, basis, A.shape[-2:]), projection.carry(u, other, basis)
    weighted = projection.reweight(S, u, basis, 0.5, 2.0)
    for i in np.ndindex(2, 3):
        one, S_one, basis_one = chosen(name, A[i], rank)
        np.testing.assert_array_equal(basis[i], basis_one)
        u_one = one.project(S_one, basis_one)
        for batched, single in (
            (u, u_one),
            (lifted, one.lift(u_one, basis_one, A.shape[-2:])),
            (carried, one.carry(u_one, other[i], basis_one)),
            (weighted, one.reweight(S_one, u_one, basis_one, 0.5, 2.0)),
        ):
            np.testing.assert_allclose(batched[i], single, atol=1e-12)


@every_basis
def test_no_array_of_n_by_n_is_in_any_compiled_constant(name):
    n, rank = 128, 32
    projection = BASES[name](rank)

    def step(A):
        S = projection.analyze(A)
        basis = projection.refresh(S, None, rank, None)
        return projection.lift(projection.project(S, basis), basis, A.shape)

    text = jax.jit(step).lower(jnp.zeros((256, n))).compile().as_text()
    assert not [line for line in text.splitlines() if f"[{n},{n}]" in line and "constant(" in line]


def test_an_unknown_kind_is_explained():
    with pytest.raises(ValueError, match="kind='IV' is unknown; use 'II' or 'III'"):
        lro.projections.dct(4, kind="IV")


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
    x = jnp.stack([jnp.ones(n), jnp.cos(jnp.arange(n)), jnp.arange(n) == 5])
    x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    largest = jnp.max(jnp.abs(projections.random_orthogonal(4).analyze(x)), axis=-1)
    assert (largest < 5 / np.sqrt(n)).all()
    assert jnp.max(jnp.abs(lro.orthogonal_dct(x[0]))) == pytest.approx(1.0)


def test_identity_with_uniform_selection_is_a_random_set_of_whole_columns():
    projection = projections.identity(3, "uniform")
    assert projection.stochastic
    A = draw(0, 4, 8)
    basis = projection.refresh(A, None, 3, jax.random.key(1))
    np.testing.assert_array_equal(projection.project(A, basis), A[:, basis])
    assert not np.array_equal(basis, projection.refresh(A, None, 3, jax.random.key(2)))


@every_basis
@pytest.mark.parametrize("select", ["importance", "hybrid", "uniform"])
def test_an_optimizer_runs_with_every_basis_and_random_selection(name, select):
    tx = lro.scale_by_low_rank(optax.scale_by_adam(), BASES[name](2, select))
    params = draw(0, 8, 12).astype(jnp.float32)
    state = tx.init(params)
    update = jax.jit(tx.update)
    seen = []
    for seed in range(3):
        updates, state = update(draw(seed, 8, 12).astype(jnp.float32), state)
        assert jnp.isfinite(updates).all()
        assert jnp.linalg.matrix_rank(updates) == 2
        seen.append(tuple(state.basis.tolist()))
    assert len(set(seen)) > 1

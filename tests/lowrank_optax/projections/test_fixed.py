"""The theory of projecting onto columns of a fixed orthogonal basis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lowrank_optax as lro

pytestmark = pytest.mark.usefixtures("float64")

# Few shapes, so that compiled functions are shared between examples.
SHAPES = st.sampled_from([(5, 1), (4, 6), (9, 7)])
SEEDS = st.integers(0, 10**6)
SELECT = st.sampled_from(["l1", "l2"])
KIND = st.sampled_from(["II", "III"])


def ranks(n):
    return st.sampled_from(sorted({1, max(1, n // 2), n}))


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def chosen(A, rank, select="l2", kind="II"):
    projection = lro.projections.dct(rank, select, kind=kind)
    S = projection.analyze(A)
    return projection, S, projection.refresh(S, None, rank, None)


@given(seed=SEEDS, shape=SHAPES, kind=KIND)
def test_synthesis_undoes_analysis_and_both_keep_the_norm(seed, shape, kind):
    A = draw(seed, 2, *shape)
    projection = lro.projections.dct(1, kind=kind)
    S = projection.analyze(A)
    np.testing.assert_allclose(projection.synthesize(S), A, atol=1e-12)
    np.testing.assert_allclose(jnp.linalg.norm(S), jnp.linalg.norm(A), rtol=1e-12)


@given(seed=SEEDS, shape=SHAPES, select=SELECT, kind=KIND, data=st.data())
def test_up_after_down_is_an_orthogonal_projection(seed, shape, select, kind, data):
    n = shape[1]
    rank = data.draw(ranks(n))
    A = draw(seed, *shape)
    projection, _, basis = chosen(A, rank, select, kind)
    down_up = lambda X: projection.lift(
        projection.project(projection.analyze(X), basis), basis, X.shape
    )
    P = down_up(jnp.eye(n))
    np.testing.assert_allclose(P @ P, P, atol=1e-12)
    np.testing.assert_allclose(P, P.T, atol=1e-12)
    np.testing.assert_allclose(jnp.trace(P), rank, atol=1e-9)
    np.testing.assert_allclose(down_up(A), A @ P, atol=1e-12)


@given(seed=SEEDS, shape=SHAPES, data=st.data())
def test_the_l2_ranking_meets_the_contraction_bound(seed, shape, data):
    n = shape[1]
    rank = data.draw(ranks(n))
    A = draw(seed, *shape)
    error = lro.diagnostics.projection_error(A, lro.projections.dct(rank, "l2"))
    assert float(error) ** 2 <= (1 - rank / n) + 1e-12


@given(seed=SEEDS, shape=SHAPES, select=SELECT, data=st.data())
def test_captured_energy_is_the_selected_columns_energy(seed, shape, select, data):
    rank = data.draw(ranks(shape[1]))
    A = draw(seed, 3, *shape)
    projection, S, basis = chosen(A, rank, select)
    energies = jnp.sum(S**2, axis=-2)
    selected = jnp.take_along_axis(energies, basis, axis=-1).sum(-1)
    captured = lro.diagnostics.captured_energy(A, projection)
    np.testing.assert_allclose(captured, selected / energies.sum(-1), rtol=1e-9)
    error = lro.diagnostics.projection_error(A, projection)
    np.testing.assert_allclose(captured + error**2, 1.0, atol=1e-12)


@given(seed=SEEDS, shape=SHAPES, inside=st.floats(-1, 1), outside=st.floats(-1, 1), data=st.data())
def test_reweighting_scales_the_two_parts_separately(seed, shape, inside, outside, data):
    n = shape[1]
    rank = data.draw(ranks(n))
    A = draw(seed, *shape)
    projection, S, basis = chosen(A, rank)
    a = projection.project(S, basis)
    part = projection.lift(a, basis, A.shape)
    weighted = projection.synthesize(projection.reweight(S, a, basis, inside, outside))
    np.testing.assert_allclose(weighted, inside * part + outside * (A - part), atol=1e-12)


@given(seed=SEEDS, n=st.sampled_from([1, 8]), data=st.data())
def test_carrying_moves_kept_coordinates_exactly_and_zeroes_new_ones(seed, n, data):
    rank = data.draw(ranks(n))
    rng = np.random.default_rng(seed)
    previous, current = (
        np.sort(rng.choice(n, size=rank, replace=False)).astype(np.int32) for _ in range(2)
    )
    x = draw(seed, 4, rank)
    moved = lro.projections.dct(rank).carry(x, jnp.asarray(previous), jnp.asarray(current))
    Q = lro.dct_matrix(n, jnp.float64)
    np.testing.assert_allclose(moved, x @ Q[:, previous].T @ Q[:, current], atol=1e-12)
    for slot, column in enumerate(current):
        kept = np.flatnonzero(previous == column)
        expected = np.asarray(x[:, kept[0]]) if kept.size else np.zeros(4)
        np.testing.assert_array_equal(moved[:, slot], expected)


def test_every_operation_is_batched_like_a_loop():
    A, rank = draw(0, 2, 3, 5, 6), 2
    projection, S, basis = chosen(A, rank)
    u = projection.project(S, basis)
    other = basis[::-1]
    lifted, carried = projection.lift(u, basis, A.shape[-2:]), projection.carry(u, other, basis)
    weighted = projection.reweight(S, u, basis, 0.5, 2.0)
    for i in np.ndindex(2, 3):
        one, S_one, basis_one = chosen(A[i], rank)
        np.testing.assert_array_equal(basis[i], basis_one)
        u_one = one.project(S_one, basis_one)
        for batched, single in (
            (u, u_one),
            (lifted, one.lift(u_one, basis_one, A.shape[-2:])),
            (carried, one.carry(u_one, other[i], basis_one)),
            (weighted, one.reweight(S_one, u_one, basis_one, 0.5, 2.0)),
        ):
            np.testing.assert_allclose(batched[i], single, atol=1e-12)


def test_no_array_of_n_by_n_is_in_any_compiled_constant():
    n, rank = 128, 32
    projection = lro.projections.dct(rank)

    def step(A):
        S = projection.analyze(A)
        basis = projection.refresh(S, None, rank, None)
        return projection.lift(projection.project(S, basis), basis, A.shape)

    text = jax.jit(step).lower(jnp.zeros((256, n))).compile().as_text()
    assert not [line for line in text.splitlines() if f"[{n},{n}]" in line and "constant(" in line]


def test_an_unknown_kind_is_explained():
    with pytest.raises(ValueError, match="kind='IV' is unknown; use 'II' or 'III'"):
        lro.projections.dct(4, kind="IV")

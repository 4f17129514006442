"""The theory of projecting onto columns of a fixed orthogonal basis, for every such basis."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import subspaces
from drawing import draw
from hypothesis import given, settings
from hypothesis import strategies as st

import lowrank_optax as lro

pytestmark = pytest.mark.usefixtures("float64")

projections = lro.projections
draw64 = functools.partial(draw, dtype="float64")
BASES = {
    "dct": projections.dct,
    "dct III": functools.partial(projections.dct, kind="III"),
    "hadamard": projections.hadamard,
    "identity": projections.identity,
    "random_orthogonal": functools.partial(projections.random_orthogonal, seed=3),
}
# Few shapes (n, m), so that compiled functions are shared between examples.
SHAPES = [(1, 5), (6, 4), (7, 9)]
POWERS_OF_TWO = [(1, 5), (8, 6)]
SEEDS = st.integers(0, 10**6)
SELECT = st.sampled_from(["l1", "l2", "importance", "hybrid", "uniform"])
QUICK = ("dct", "hadamard", "identity")  # of the others one is as the DCT, one its inverse
every_basis = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in BASES]
)


def shapes(name):
    return st.sampled_from(POWERS_OF_TWO if name == "hadamard" else SHAPES)


def ranks(n):
    return st.sampled_from(sorted({1, max(1, n // 2), n}))


def in_order(projection, S):
    """Coefficients in the order of the basis' columns: a domain may have an order of its own."""
    order = projection.order(S.shape[-2])
    return S if order is None else S[..., np.argsort(order), :]


def at_work(name, G, rank, select="l2"):
    """A projection, the coefficients of G, and the basis and subspace that it chooses for them."""
    projection = BASES[name](rank, select)
    S = projection.analyze(G, G.dtype)
    basis = subspaces.chosen(projection, S, rank)
    return projection, S, basis, projection.subspace(basis, G.shape)


@pytest.mark.product(every=3)
@every_basis
@pytest.mark.parametrize("n", [1, 8, 512])
def test_the_columns_are_an_orthogonal_matrix_and_the_transform_is_its_product(name, n):
    projection = BASES[name](1)
    Q = projection.columns(jnp.arange(n), n, jnp.float64)
    np.testing.assert_allclose(Q.T @ Q, jnp.eye(n), atol=1e-12)
    A = draw64((2, n, 3))
    S = projection.analyze(A, A.dtype)
    np.testing.assert_allclose(in_order(projection, S), Q.T @ A, atol=1e-12)
    np.testing.assert_allclose(projection.synthesize(S), A, atol=1e-12)
    some = jnp.array([[n - 1, 0], [0, 0]])
    batched = projection.columns(some, n, jnp.float64)
    np.testing.assert_array_equal(batched, jnp.stack([Q[:, some[0]], Q[:, some[1]]]))
    assert projection.columns(some, n, jnp.float32).dtype == jnp.float32


@every_basis
@settings(max_examples=3)
@given(seed=SEEDS, data=st.data())
def test_synthesis_undoes_analysis_and_both_keep_the_norm(name, seed, data):
    A = draw64((2, *data.draw(shapes(name))), seed)
    projection = BASES[name](1)
    S = projection.analyze(A, A.dtype)
    np.testing.assert_allclose(projection.synthesize(S), A, atol=1e-12)
    np.testing.assert_allclose(jnp.linalg.norm(S), jnp.linalg.norm(A), rtol=1e-12)


@every_basis
def test_coefficients_come_in_the_dtype_that_analysis_is_told(name):
    G = draw((8, 4), dtype=jnp.bfloat16)
    S = BASES[name](1).analyze(G, jnp.float32)
    assert S.dtype == jnp.float32
    exact = BASES[name](1).analyze(G.astype(jnp.float64), jnp.float64)
    # Products in half precision round the basis, by 2⁻⁹ of every entry.
    np.testing.assert_allclose(S, exact, atol=2**-9 * float(jnp.sum(jnp.abs(G), axis=0).max()))


@every_basis
@settings(max_examples=5)
@given(seed=SEEDS, select=SELECT, data=st.data())
def test_up_after_down_is_an_orthogonal_projection(name, seed, select, data):
    shape = data.draw(shapes(name))
    n = shape[0]
    rank = data.draw(ranks(n))
    A = draw64(shape, seed)
    projection, _, basis, _ = at_work(name, A, rank, select)

    def down_up(X):
        subspace = projection.subspace(basis, X.shape)
        return subspace.lift(subspace.project(projection.analyze(X, X.dtype)))

    P = down_up(jnp.eye(n))
    np.testing.assert_allclose(P @ P, P, atol=1e-12)
    np.testing.assert_allclose(P, P.T, atol=1e-12)
    np.testing.assert_allclose(jnp.trace(P), rank, atol=1e-9)
    np.testing.assert_allclose(down_up(A), P @ A, atol=1e-12)


@every_basis
@settings(max_examples=4)
@given(seed=SEEDS, data=st.data())
def test_the_l2_ranking_meets_the_contraction_bound(name, seed, data):
    shape = data.draw(shapes(name))
    n = shape[0]
    rank = data.draw(ranks(n))
    A = draw64(shape, seed)
    projection, _, basis, _ = at_work(name, A, rank, "l2")
    error = lro.diagnostics.projection_error(A, projection, basis)
    assert float(error) ** 2 <= (1 - rank / n) + 1e-12


@every_basis
@settings(max_examples=4)
@given(seed=SEEDS, select=SELECT, data=st.data())
def test_captured_energy_is_the_selected_columns_energy(name, seed, select, data):
    shape = data.draw(shapes(name))
    rank = data.draw(ranks(shape[0]))
    A = draw64((3, *shape), seed)
    projection, S, basis, _ = at_work(name, A, rank, select)
    energies = jnp.sum(S**2, axis=-1)
    selected = jnp.take_along_axis(energies, basis, axis=-1).sum(-1)
    captured = lro.diagnostics.captured_energy(A, projection, basis)
    np.testing.assert_allclose(captured, selected / energies.sum(-1), rtol=1e-9)
    error = lro.diagnostics.projection_error(A, projection, basis)
    np.testing.assert_allclose(captured + error**2, 1.0, atol=1e-12)


@every_basis
@settings(max_examples=4)
@given(seed=SEEDS, inside=st.floats(-1, 1), outside=st.floats(-1, 1), data=st.data())
def test_reweighting_scales_the_two_parts_separately(name, seed, inside, outside, data):
    shape = data.draw(shapes(name))
    rank = data.draw(ranks(shape[0]))
    A = draw64(shape, seed)
    projection, S, _, subspace = at_work(name, A, rank)
    a = subspace.project(S)
    part = subspace.lift(a)
    np.testing.assert_allclose(projection.synthesize(subspace.embed(a)), part, atol=1e-12)
    reweighted = subspace.reweight(S, a, inside, outside)
    expected = inside * part + outside * (A - part)
    np.testing.assert_allclose(projection.synthesize(reweighted), expected, atol=1e-12)
    stored = subspace.store(S, a, inside, outside)
    restored = subspace.restore(stored, inside, outside)
    np.testing.assert_allclose(restored, reweighted, atol=1e-12)


@pytest.mark.product
@every_basis
@pytest.mark.parametrize("n", [8, 512])
def test_in_whatever_order_the_domain_is_a_subspace_is_that_of_its_columns(name, n):
    A, rank = draw64((2, n, 3)), 4
    projection, S, basis, subspace = at_work(name, A, rank)
    Q = projection.columns(jnp.arange(n), n, jnp.float64)
    energies = jnp.sum((Q.T @ A) ** 2, axis=-1)
    best = jnp.sort(jnp.argsort(energies, axis=-1)[..., -rank:], axis=-1)
    np.testing.assert_array_equal(basis, best)
    P = projection.columns(basis, n, jnp.float64)
    a = subspace.project(S)
    np.testing.assert_allclose(a, P.mT @ A, atol=1e-12)
    np.testing.assert_allclose(subspace.lift(a), P @ a, atol=1e-12)
    np.testing.assert_allclose(projection.synthesize(subspace.embed(a)), P @ a, atol=1e-12)
    left = projection.synthesize(subspace.reweight(S, a, 0.0, 1.0))
    np.testing.assert_allclose(left, A - P @ a, atol=1e-12)
    other = projection.subspace(basis[::-1], A.shape)
    y = draw64((2, rank, 3), 1)
    without = projection.synthesize(subspace.without(S, a, other, y))
    np.testing.assert_allclose(without, A - P @ a - P[::-1] @ y, atol=1e-12)


def test_the_order_of_a_domain_is_a_permutation_and_not_always_that_of_the_columns():
    order = projections.dct(1).order(512)
    np.testing.assert_array_equal(np.sort(order), np.arange(512))
    assert np.any(order != np.arange(512))


@every_basis
@settings(max_examples=4)
@given(seed=SEEDS, n=st.sampled_from([1, 8]), data=st.data())
def test_carrying_moves_kept_coordinates_exactly_and_zeroes_new_ones(name, seed, n, data):
    rank = data.draw(ranks(n))
    rng = np.random.default_rng(seed)
    previous, current = (
        np.sort(rng.choice(n, size=rank, replace=False)).astype(np.int32) for _ in range(2)
    )
    x = draw64((rank, 4), seed)
    projection = BASES[name](rank)
    old, new = (projection.subspace(jnp.asarray(basis), (n, 4)) for basis in (previous, current))
    transition = new.since(old)
    moved = transition.carry(x)
    Q = projection.columns(jnp.arange(n), n, jnp.float64)
    R = Q[:, previous].T @ Q[:, current]
    np.testing.assert_allclose(moved, R.T @ x, atol=1e-12)
    np.testing.assert_allclose(transition.carry_squared(x), (R**2).T @ x, atol=1e-12)
    for slot, column in enumerate(current):
        kept = np.flatnonzero(previous == column)
        expected = np.asarray(x[kept[0]]) if kept.size else np.zeros(4)
        np.testing.assert_array_equal(moved[slot], expected)
    assert float(transition.overlap()) == pytest.approx(np.isin(current, previous).mean())


@pytest.mark.product(every=2)
@every_basis
def test_every_operation_is_batched_like_a_loop(name):
    A, rank = draw64((2, 3, 8, 5)), 2
    projection, S, basis, subspace = at_work(name, A, rank)
    u = subspace.project(S)
    other = basis[::-1]
    transition = subspace.since(projection.subspace(other, A.shape))
    lifted, embedded = subspace.lift(u), subspace.embed(u)
    carried, overlap = transition.carry(u), transition.overlap()
    weighted = subspace.reweight(S, u, 0.5, 2.0)
    for i in np.ndindex(2, 3):
        one, S_one, basis_one, subspace_one = at_work(name, A[i], rank)
        np.testing.assert_array_equal(basis[i], basis_one)
        u_one = subspace_one.project(S_one)
        transition_one = subspace_one.since(one.subspace(other[i], A.shape[-2:]))
        for batched, single in (
            (u, u_one),
            (lifted, subspace_one.lift(u_one)),
            (embedded, subspace_one.embed(u_one)),
            (carried, transition_one.carry(u_one)),
            (overlap, transition_one.overlap()),
            (weighted, subspace_one.reweight(S_one, u_one, 0.5, 2.0)),
        ):
            np.testing.assert_allclose(batched[i], single, atol=1e-12)


@pytest.mark.product
@every_basis
@pytest.mark.parametrize("rank", [2, 8])
def test_lifting_multiplies_in_the_dtype_of_the_leaf_and_sums_in_float32(name, rank):
    projection, _, basis, subspace = at_work(name, draw((3, 8, 12)), rank)
    u = draw((3, rank, 12), 1)
    lifted = projection.subspace(basis, (3, 8, 12), jnp.bfloat16).lift(u)
    assert lifted.dtype == jnp.float32
    columns = projection.columns(basis, 8, jnp.bfloat16).astype(jnp.float32)
    rounded = columns @ u.astype(jnp.bfloat16).astype(jnp.float32)
    # Many columns, and plain coordinates, take no product that could be rounded.
    exact = rank == 8 or name == "identity"
    np.testing.assert_allclose(lifted, subspace.lift(u) if exact else rounded, atol=1e-6)


@every_basis
def test_no_array_of_n_by_n_is_in_any_compiled_constant(name):
    n, rank = 128, 32
    projection = BASES[name](rank)

    def step(A):
        S = projection.analyze(A, A.dtype)
        subspace = projection.subspace(subspaces.chosen(projection, S, rank), A.shape)
        return subspace.lift(subspace.project(S))

    text = jax.jit(step).lower(jnp.zeros((n, 256))).compile().as_text()
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
    x = jnp.stack([jnp.ones(n), jnp.cos(jnp.arange(n)), jnp.arange(n) == 5], axis=-1)
    x = x / jnp.linalg.norm(x, axis=0)
    S = projections.random_orthogonal(4).analyze(x, x.dtype)
    assert (jnp.max(jnp.abs(S), axis=0) < 5 / np.sqrt(n)).all()
    assert jnp.max(jnp.abs(lro.orthogonal_dct(x[:, 0]))) == pytest.approx(1.0)


def test_identity_with_uniform_selection_is_a_random_set_of_whole_rows():
    projection = projections.identity(3, "uniform")
    A = draw64((8, 4))
    basis = subspaces.chosen(projection, A, 3, jax.random.key(1))
    np.testing.assert_array_equal(projection.subspace(basis, A.shape).project(A), A[basis])
    assert not np.array_equal(basis, subspaces.chosen(projection, A, 3, jax.random.key(2)))


@pytest.mark.product
@every_basis
@pytest.mark.parametrize("select", ["importance", "hybrid", "uniform"])
def test_an_optimizer_runs_with_every_basis_and_random_selection(name, select):
    tx = lro.scale_by_low_rank(optax.scale_by_adam(), BASES[name](2, select))
    state = jax.jit(tx.init)(draw((8, 12)))
    update = jax.jit(tx.update)
    seen = []
    for seed in range(3):
        updates, state = update(draw((8, 12), seed), state)
        assert jnp.isfinite(updates).all()
        assert jnp.linalg.matrix_rank(updates) == 2
        seen.append(tuple(state.basis.tolist()))
    assert len(set(seen)) > 1

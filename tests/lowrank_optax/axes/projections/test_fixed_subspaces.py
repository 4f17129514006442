"""The theory of projecting onto columns of a fixed orthogonal basis, for every such basis."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import subspaces
from drawing import draw
from fixed_bases import BASES, at_work, draw64, every_basis

import lowrank_optax as lro
from lowrank_optax import projections

pytestmark = pytest.mark.usefixtures("float64")

SEEDS = range(3)


def cases(name):
    """Few shapes (n, m) and ranks, each of which is compiled once for all seeds."""
    power = name == "hadamard"
    return [((1, 5), 1), ((8, 6) if power else (6, 4), 3), ((8, 6) if power else (7, 9), 7 + power)]


def down_up(name, shape, rank, select):
    """Compiled: the projection as a matrix, and what it makes of A."""

    @jax.jit
    def program(A):
        projection, _, basis, _ = at_work(name, A, rank, select)

        def projected(X):
            subspace = projection.subspace(basis, X.shape)
            return subspace.lift(subspace.project(projection.analyze(X, X.dtype)))

        return projected(jnp.eye(shape[0])), projected(A)

    return program


@pytest.mark.product(every=2)
@every_basis
def test_up_after_down_is_an_orthogonal_projection(name):
    for (shape, rank), select in zip(cases(name), ("l1", "hybrid", "uniform"), strict=True):
        program = down_up(name, shape, rank, select)
        for seed in SEEDS:
            A = np.asarray(draw64(shape, seed))
            P, projected = map(np.asarray, program(A))
            np.testing.assert_allclose(P @ P, P, atol=1e-12)
            np.testing.assert_allclose(P, P.T, atol=1e-12)
            np.testing.assert_allclose(np.trace(P), rank, atol=1e-9)
            np.testing.assert_allclose(projected, P @ A, atol=1e-12)


def captured(name, rank, select):
    """Compiled: energies of all coefficients, the basis, and what the diagnostics say of it."""

    @jax.jit
    def program(A):
        projection, S, basis, _ = at_work(name, A, rank, select)
        captured = lro.diagnostics.captured_energy(A, projection, basis)
        error = lro.diagnostics.projection_error(A, projection, basis)
        return jnp.sum(S**2, axis=-1), basis, captured, error

    return program


@every_basis
def test_captured_energy_is_the_selected_columns_energy_and_meets_the_contraction_bound(name):
    for (shape, rank), select in zip(cases(name), ("importance", "l2", "hybrid"), strict=True):
        program = captured(name, rank, select)
        for seed in SEEDS:
            energies, basis, share, error = map(np.asarray, program(draw64((3, *shape), seed)))
            selected = np.take_along_axis(energies, basis, axis=-1).sum(-1)
            np.testing.assert_allclose(share, selected / energies.sum(-1), rtol=1e-9)
            np.testing.assert_allclose(share + error**2, 1.0, atol=1e-12)
            if select == "l2":
                assert (error**2 <= (1 - rank / shape[0]) + 1e-12).all()


def reweighted(name, rank):
    """Compiled: A as it is embedded, lifted, reweighted, and stored and restored."""

    @jax.jit
    def program(A, inside, outside):
        projection, S, _, subspace = at_work(name, A, rank)
        a = subspace.project(S)
        weighted = subspace.reweight(S, a, inside, outside)
        restored = subspace.restore(subspace.store(S, a, inside, outside), inside, outside)
        spaces = (subspace.embed(a), weighted, restored)
        return subspace.lift(a), *map(projection.synthesize, spaces)

    return program


@every_basis
def test_reweighting_scales_the_two_parts_separately(name):
    weights = [(0.5, -0.25), (1.0, 0.0), (0.0, 1.0)]
    for shape, rank in cases(name):
        program = reweighted(name, rank)
        for seed, (inside, outside) in zip(SEEDS, weights, strict=True):
            A = np.asarray(draw64(shape, seed))
            part, embedded, weighted, restored = map(np.asarray, program(A, inside, outside))
            np.testing.assert_allclose(embedded, part, atol=1e-12)
            expected = inside * part + outside * (A - part)
            np.testing.assert_allclose(weighted, expected, atol=1e-12)
            np.testing.assert_allclose(restored, weighted, atol=1e-12)


def in_the_order_of_the_domain(name, n, rank):
    """Compiled: everything that depends on the order, and all columns."""

    @jax.jit
    def program(A, y):
        projection, S, basis, subspace = at_work(name, A, rank)
        a = subspace.project(S)
        other = projection.subspace(basis[::-1], A.shape)
        found = {
            "lifted": subspace.lift(a),
            "embedded": projection.synthesize(subspace.embed(a)),
            "left": projection.synthesize(subspace.reweight(S, a, 0.0, 1.0)),
            "without": projection.synthesize(subspace.without(S, a, other, y)),
        }
        return basis, a, projection.columns(jnp.arange(n), n, jnp.float64), found

    return program


@pytest.mark.product
@every_basis
@pytest.mark.parametrize("n", [8, 512])
def test_in_whatever_order_the_domain_is_a_subspace_is_that_of_its_columns(name, n):
    rank = 4
    A, y = np.asarray(draw64((2, n, 3))), np.asarray(draw64((2, rank, 3), 1))
    basis, a, Q, found = in_the_order_of_the_domain(name, n, rank)(A, y)
    Q = np.asarray(Q)
    energies = np.sum((Q.T @ A) ** 2, axis=-1)
    best = np.sort(np.argsort(energies, axis=-1)[..., -rank:], axis=-1)
    np.testing.assert_array_equal(basis, best)
    P = np.stack([Q[:, columns] for columns in best])
    projected = P @ np.asarray(a)
    np.testing.assert_allclose(a, P.mT @ A, atol=1e-12)
    np.testing.assert_allclose(found["lifted"], projected, atol=1e-12)
    np.testing.assert_allclose(found["embedded"], projected, atol=1e-12)
    np.testing.assert_allclose(found["left"], A - projected, atol=1e-12)
    np.testing.assert_allclose(found["without"], A - projected - P[::-1] @ y, atol=1e-12)


def carried(name, n, rank):
    """Compiled: coordinates x moved from one basis to another, and all columns."""
    projection = BASES[name](rank)

    @jax.jit
    def program(previous, current, x):
        old, new = (projection.subspace(basis, (n, 4)) for basis in (previous, current))
        transition = new.since(old)
        Q = projection.columns(jnp.arange(n), n, jnp.float64)
        return transition.carry(x), transition.carry_squared(x), transition.overlap(), Q

    return program


@pytest.mark.product(every=2)
@every_basis
def test_carrying_moves_kept_coordinates_exactly_and_zeroes_new_ones(name):
    for n, rank in [(1, 1), (8, 3), (8, 8)]:
        program = carried(name, n, rank)
        for seed in SEEDS:
            rng = np.random.default_rng(seed)
            previous, current = (
                np.sort(rng.choice(n, size=rank, replace=False)).astype(np.int32) for _ in range(2)
            )
            x = np.asarray(draw64((rank, 4), seed))
            moved, squared, overlap, Q = map(np.asarray, program(previous, current, x))
            R = Q[:, previous].T @ Q[:, current]
            np.testing.assert_allclose(moved, R.T @ x, atol=1e-12)
            np.testing.assert_allclose(squared, (R**2).T @ x, atol=1e-12)
            for slot, column in enumerate(current):
                kept = np.flatnonzero(previous == column)
                expected = x[kept[0]] if kept.size else np.zeros(4)
                np.testing.assert_array_equal(moved[slot], expected)
            assert float(overlap) == pytest.approx(np.isin(current, previous).mean())


@pytest.mark.product(every=2)
@every_basis
def test_every_operation_is_batched_like_a_loop(name):
    rank = 2

    @jax.jit
    def program(A, other):
        projection, S, basis, subspace = at_work(name, A, rank)
        u = subspace.project(S)
        transition = subspace.since(projection.subspace(other, A.shape))
        carried, overlap = transition.carry(u), transition.overlap()
        weighted = subspace.reweight(S, u, 0.5, 2.0)
        return basis, u, subspace.lift(u), subspace.embed(u), carried, overlap, weighted

    A = np.asarray(draw64((2, 3, 8, 5)))
    other = np.asarray([[[0, 3], [1, 2], [2, 7]], [[4, 5], [0, 7], [3, 6]]], np.int32)
    batched = program(A, other)
    for i in np.ndindex(2, 3):
        for together, single in zip(batched, program(A[i], other[i]), strict=True):
            np.testing.assert_allclose(together[i], single, atol=1e-12)


@pytest.mark.product
@every_basis
@pytest.mark.parametrize("rank", [2, 8])
def test_lifting_multiplies_in_the_dtype_of_the_leaf_and_sums_in_float32(name, rank):
    shape = (3, 8, 12)

    @jax.jit
    def program(G, u):
        projection, _, basis, subspace = at_work(name, G, rank)
        lifted = projection.subspace(basis, shape, jnp.bfloat16).lift(u)
        return lifted, subspace.lift(u), projection.columns(basis, 8, jnp.bfloat16)

    u = draw((3, rank, 12), 1)
    lifted, exact, columns = program(draw(shape), u)
    assert lifted.dtype == jnp.float32
    rounded = np.asarray(columns, np.float32) @ np.asarray(u.astype(jnp.bfloat16), np.float32)
    # Many columns, and plain coordinates, take no product that could be rounded.
    expected = exact if rank == 8 or name == "identity" else rounded
    np.testing.assert_allclose(lifted, expected, atol=1e-6)


@every_basis
def test_no_array_of_n_by_n_is_in_any_compiled_constant(name):
    n = 128

    def step(A):
        _, S, _, subspace = at_work(name, A, rank=32)
        return subspace.lift(subspace.project(S))

    text = jax.jit(step).lower(jnp.zeros((n, 256))).compile().as_text()
    assert not [line for line in text.splitlines() if f"[{n},{n}]" in line and "constant(" in line]


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
        assert np.isfinite(updates).all()
        assert np.linalg.matrix_rank(updates) == 2
        seen.append(tuple(state.basis.tolist()))
    assert len(set(seen)) > 1

"""Power iteration finds the dominant subspace and starts where it left off."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lowrank_optax as lro
from lowrank_optax.linalg.orthogonalize import METHODS

projections = lro.projections
RANK = 3
every_method = pytest.mark.parametrize("orthogonalize", METHODS)


def decaying(seed, m=20, n=9, factor=0.6):
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.normal(size=(size, n)))[0] for size in (m, n))
    return jnp.asarray(U * factor ** np.arange(n) @ V.T, jnp.float32), jnp.asarray(V[:, :RANK])


def random_basis(seed, n=9):
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, RANK)))[0]
    return jnp.asarray(basis, jnp.float32)


@every_method
def test_it_converges_to_the_dominant_subspace_from_any_basis(orthogonalize):
    A, V = decaying(0)
    projection = projections.power_iteration(RANK, orthogonalize=orthogonalize)
    refresh = jax.jit(lambda P: projection.refresh(A, P, RANK, None))
    P = random_basis(1)
    overlaps = []
    for _ in range(12):
        P = refresh(P)
        overlaps.append(float(projection.overlap(P, V)))
    assert overlaps[-1] > 1 - 1e-5
    assert overlaps[0] < overlaps[2] < overlaps[4]
    np.testing.assert_allclose(P.T @ P, jnp.eye(RANK), atol=1e-5)


def test_the_error_falls_by_the_squared_ratio_of_singular_values():
    A, V = decaying(0)
    projection = projections.power_iteration(RANK)
    P, errors = random_basis(1), []
    for _ in range(6):
        P = projection.refresh(A, P, RANK, None)
        errors.append(np.sqrt(max(0.0, 1 - float(projection.overlap(P, V)))))
    assert errors[4] / errors[3] == pytest.approx(0.6**2, rel=0.2)


@every_method
def test_the_first_refresh_takes_the_singular_vectors(orthogonalize):
    A, V = decaying(2)
    projection = projections.power_iteration(RANK, orthogonalize=orthogonalize)
    P = projection.refresh(A, jnp.zeros((9, RANK)), RANK, None)
    assert float(projection.overlap(P, V)) > 1 - 1e-5


def test_a_warm_start_follows_a_drifting_matrix_better_than_a_cold_one():
    first, _ = decaying(3)
    projection = projections.power_iteration(RANK)
    warm = projection.refresh(first, jnp.zeros((9, RANK)), RANK, None)
    noise = jnp.asarray(np.random.default_rng(4).normal(size=first.shape), jnp.float32)
    drifted = first + 0.01 * noise
    captured = lambda basis: float(
        lro.diagnostics.captured_energy(
            drifted, projection, projection.refresh(drifted, basis, RANK, None)
        )
    )
    best = float(lro.diagnostics.captured_energy(drifted, projections.svd(RANK)))
    assert best - captured(warm) < 1e-4
    assert best - captured(random_basis(5)) > 1e-3


def test_more_iterations_are_the_same_as_more_refreshes():
    A, _ = decaying(6)
    three = projections.power_iteration(RANK, iterations=3).refresh(A, random_basis(7), RANK, None)
    P, one = random_basis(7), projections.power_iteration(RANK)
    for _ in range(3):
        P = one.refresh(A, P, RANK, None)
    np.testing.assert_allclose(jnp.abs(three), jnp.abs(P), atol=1e-5)


def test_all_orthogonalisations_span_the_same_subspace():
    A, _ = decaying(8)
    auto, qr, cholesky = (
        projections.power_iteration(RANK, orthogonalize=method).refresh(
            A, random_basis(9), RANK, None
        )
        for method in METHODS
    )
    np.testing.assert_allclose(qr @ qr.T, cholesky @ cholesky.T, atol=1e-5)
    np.testing.assert_allclose(qr @ qr.T, auto @ auto.T, atol=1e-5)


def test_a_tiny_gradient_does_not_underflow():
    A, _ = decaying(10)
    projection = projections.power_iteration(RANK)
    start = random_basis(11)
    P = projection.refresh(A, start, RANK, None)
    tiny = projection.refresh(1e-25 * A, start, RANK, None)
    np.testing.assert_allclose(tiny @ tiny.T, P @ P.T, atol=1e-5)


def test_a_stack_whose_matrices_start_at_different_times_is_never_zero():
    A = jnp.stack([decaying(12)[0], jnp.zeros((20, 9))])
    projection = projections.power_iteration(RANK)
    P = projection.refresh(A, jnp.zeros((2, 9, RANK)), RANK, None)
    P = projection.refresh(A[::-1], P, RANK, None)
    expected = jnp.broadcast_to(jnp.eye(RANK), (2, RANK, RANK))
    np.testing.assert_allclose(P.mT @ P, expected, atol=1e-5)


def test_it_follows_the_first_moment_when_asked_to():
    A, _ = decaying(13)
    followed, V = decaying(14)
    start = np.linalg.qr(np.asarray(V) + 0.1)[0].astype(np.float32)
    projection = projections.power_iteration(RANK, rho=0.95, b1=0.9)
    assert projection.uses_moment
    count = jnp.asarray(4, jnp.int32)
    m = followed @ start
    moment = projections.Moment(m * (1 - 0.9**4), count)
    P = projection.refresh(A, jnp.asarray(start), RANK, None, moment)
    B = 0.95 * m @ start.T + 0.05 * A
    expected = np.linalg.qr(np.asarray(B.T @ (B @ start), np.float64))[0]
    np.testing.assert_allclose(P @ P.T, expected @ expected.T, atol=1e-4)


def test_after_the_first_step_an_optimizer_factorises_by_qr_alone():
    tx = lro.scale_by_low_rank(optax.scale_by_adam(), projections.power_iteration(2))
    params = jnp.zeros((8, 12))
    jaxpr = jax.make_jaxpr(tx.update)(params, tx.init(params)).jaxpr
    conds = [equation for equation in jaxpr.eqns if equation.primitive.name == "cond"]
    assert len(conds) == 1
    assert conds[0].invars[0].aval.shape == ()
    branches = [str(branch) for branch in conds[0].params["branches"]]
    assert [" svd[" in branch for branch in branches].count(True) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iterations": 0}, "iterations=0 must be at least 1"),
        ({"orthogonalize": "svd"}, "orthogonalize='svd' is unknown; use one of"),
    ],
)
def test_bad_arguments_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        projections.power_iteration(2, **arguments)

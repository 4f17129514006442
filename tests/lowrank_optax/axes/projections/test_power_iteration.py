"""Power iteration finds the dominant subspace and starts where it left off."""

import functools

import drawing
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw, orthonormal
from subspaces import chosen, refreshed

import lowrank_optax as lro
from lowrank_optax.axes.projections.base import Moment
from lowrank_optax.linalg.orthogonalize import METHODS

projections = lro.projections
overlap = jax.jit(lro.diagnostics.subspace_overlap)
N, M, RANK = 9, 20, 3
every_method = pytest.mark.parametrize("orthogonalize", METHODS)
decaying = functools.partial(drawing.decaying, (N, M), factor=0.6)
random_basis = functools.partial(orthonormal, (N, RANK))


@every_method
def test_it_converges_to_the_dominant_subspace_from_any_basis(orthogonalize):
    A, U = decaying(0)
    projection = projections.power_iteration(RANK, orthogonalize=orthogonalize)
    P = random_basis(1)
    overlaps = []
    for _ in range(12):
        P = refreshed(projection, A, P, RANK)
        overlaps.append(float(overlap(P, U[:, :RANK])))
    assert overlaps[-1] > 1 - 1e-5
    assert overlaps[0] < overlaps[2] < overlaps[4]
    np.testing.assert_allclose(P.T @ P, jnp.eye(RANK), atol=1e-5)


def test_the_error_falls_by_the_squared_ratio_of_singular_values():
    A, U = decaying(0)
    projection = projections.power_iteration(RANK)
    P, errors = random_basis(1), []
    for _ in range(6):
        P = refreshed(projection, A, P, RANK)
        errors.append(np.sqrt(max(0.0, 1 - float(overlap(P, U[:, :RANK])))))
    assert errors[4] / errors[3] == pytest.approx(0.6**2, rel=0.2)


@every_method
def test_the_first_refresh_takes_the_singular_vectors(orthogonalize):
    A, U = decaying(2)
    P = chosen(projections.power_iteration(RANK, orthogonalize=orthogonalize), A, RANK)
    assert float(overlap(P, U[:, :RANK])) > 1 - 1e-5


def test_a_warm_start_follows_a_drifting_matrix_better_than_a_cold_one():
    first, _ = decaying(3)
    projection = projections.power_iteration(RANK)
    warm = chosen(projection, first, RANK)
    drifted = first + 0.01 * draw(first.shape, 4)

    @jax.jit
    def captured(basis):
        basis = refreshed(projection, drifted, basis, RANK)
        return lro.diagnostics.captured_energy(drifted, projection, basis)

    best = lro.diagnostics.captured_energy(drifted, projections.svd(RANK))
    assert best - captured(warm) < 1e-4
    assert best - captured(random_basis(5)) > 1e-3


def test_more_iterations_are_the_same_as_more_refreshes():
    A, _ = decaying(6)
    three = refreshed(projections.power_iteration(RANK, iterations=3), A, random_basis(7), RANK)
    P, one = random_basis(7), projections.power_iteration(RANK)
    for _ in range(3):
        P = refreshed(one, A, P, RANK)
    np.testing.assert_allclose(jnp.abs(three), jnp.abs(P), atol=1e-5)


@every_method
def test_every_orthogonalisation_spans_the_same_subspace(orthogonalize):
    A, _ = decaying(8)
    qr, other = (
        refreshed(projections.power_iteration(RANK, orthogonalize=method), A, random_basis(9), RANK)
        for method in ("qr", orthogonalize)
    )
    np.testing.assert_allclose(other @ other.T, qr @ qr.T, atol=1e-5)


def test_a_tiny_gradient_does_not_underflow():
    A, _ = decaying(10)
    projection = projections.power_iteration(RANK)
    start = random_basis(11)
    P = refreshed(projection, A, start, RANK)
    tiny = refreshed(projection, 1e-25 * A, start, RANK)
    np.testing.assert_allclose(tiny @ tiny.T, P @ P.T, atol=1e-5)


def test_a_stack_whose_matrices_start_at_different_times_is_never_zero():
    A = jnp.stack([decaying(12)[0], jnp.zeros((N, M))])
    projection = projections.power_iteration(RANK)
    P = refreshed(projection, A[::-1], chosen(projection, A, RANK), RANK)
    expected = jnp.broadcast_to(jnp.eye(RANK), (2, RANK, RANK))
    np.testing.assert_allclose(P.mT @ P, expected, atol=1e-5)


def test_it_follows_the_first_moment_when_asked_to():
    A, _ = decaying(13)
    followed, U = decaying(14)
    start = jnp.asarray(np.linalg.qr(np.asarray(U[:, :RANK]) + 0.1)[0])
    projection = projections.power_iteration(RANK, rho=0.95, b1=0.9)
    m = start.T @ followed
    moment = Moment(m * (1 - 0.9**4), jnp.asarray(4, jnp.int32))
    P = refreshed(projection, A, start, RANK, moment=moment)
    B = 0.95 * start @ m + 0.05 * A
    expected = np.linalg.qr(np.asarray(B @ (B.T @ start), np.float64))[0]
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

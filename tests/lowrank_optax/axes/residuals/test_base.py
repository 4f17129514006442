"""The part outside the subspace: of rounding errors alone there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw

import lowrank_optax as lro

KERNEL = optax.contrib.MuonDimensionNumbers()
WHOLE = {
    "svd": lro.projections.svd(1.0),
    "random": lro.projections.random(1.0),
    "power_iteration": lro.projections.power_iteration(1.0),
    "two_sided": lro.projections.two_sided(lro.projections.svd(4), lro.projections.random(1.0)),
}
RESIDUALS = {
    "sign_descent": lro.residuals.sign_descent(),
    "sgd": lro.residuals.sgd(),
    "orthonormal": lro.residuals.orthonormal(2),
    "sinkhorn": lro.residuals.sinkhorn(),
    "column_scaling": lro.residuals.column_scaling(),
}
PAIRS = [
    (projection, residual)
    for projection in WHOLE
    for residual in RESIDUALS
    if (projection, residual) != ("two_sided", "column_scaling")  # which it refuses
]


def optimizer(projection, residual, **settings):
    """With a zero direction inside, so that the rest alone is seen."""
    return lro.scale_by_low_rank(
        optax.set_to_zero(),
        projection,
        residual=residual,
        dimension_numbers=KERNEL,
        **settings,
    )


def step(G, projection, residual, **settings):
    tx = optimizer(projection, residual, **settings)
    return np.asarray(jax.jit(lambda G: tx.update(G, tx.init(G))[0])(G))


@pytest.mark.product
@pytest.mark.parametrize(("projection", "residual"), PAIRS)
@pytest.mark.parametrize("size", [1e-25, 1.0, 1e10])
def test_at_full_rank_no_step_is_taken_along_rounding_errors(projection, residual, size):
    G = size * draw((4, 8), 0)
    np.testing.assert_array_equal(step(G, WHOLE[projection], RESIDUALS[residual]), 0)


@pytest.mark.product(every=3)
@pytest.mark.parametrize("shape", [(8, 4), (300, 4)])
@pytest.mark.parametrize("residual", RESIDUALS)
def test_nor_where_the_basis_spans_the_columns_of_a_longer_side(residual, shape):
    got = step(draw(shape, 1), lro.projections.svd(4), RESIDUALS[residual], compress="in")
    np.testing.assert_array_equal(got, 0)


@pytest.mark.product(every=3)
@pytest.mark.parametrize("projection", ["svd", "power_iteration", "random", "two_sided"])
@pytest.mark.parametrize("residual", ["sign_descent", "orthonormal", "sinkhorn"])
@pytest.mark.parametrize("size", [1e-20, 1.0])
def test_nor_where_a_gradient_has_no_more_rank_than_the_subspace(projection, residual, size):
    G = size * draw((32, 3), 0) @ draw((3, 64), 1)
    made = {
        "svd": lro.projections.svd(8),
        "power_iteration": lro.projections.power_iteration(8),
        "random": lro.projections.random(32),
        "two_sided": lro.projections.two_sided(lro.projections.svd(8), lro.projections.svd(8)),
    }
    np.testing.assert_array_equal(step(G, made[projection], RESIDUALS[residual]), 0)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_what_a_basis_of_an_earlier_gradient_leaves_over_stays(residual):
    tx = optimizer(lro.projections.svd(4), RESIDUALS[residual], compress="in", update_interval=2)
    _, state = jax.jit(tx.update)(draw((8, 4), 1), tx.init(draw((8, 4), 1)))
    step, _ = jax.jit(tx.update)(draw((8, 4), 2), state)
    assert np.all(np.asarray(step) != 0)


def test_what_a_scheduled_rank_leaves_over_stays_though_there_are_columns_for_all():
    half = lro.projections.scheduled_rank(lro.projections.svd(1.0), lambda _: 2)
    assert np.all(step(draw((4, 8), 3), half, lro.residuals.orthonormal(1)) != 0)


@pytest.mark.parametrize(
    ("projection", "rank", "reductions"),
    [
        (lro.projections.dct(1.0), 4, 0),
        (lro.projections.svd(2), 2, 1),
        (lro.projections.svd(1.0), 4, 1),
    ],
)
def test_errors_of_a_learned_basis_are_told_by_the_coordinates_of_a_column(
    projection, rank, reductions
):
    def outside(A):
        key = jax.random.key(0)
        subspace = projection.subspace(projection.init(A.shape, rank, A.dtype, key), A.shape)
        a = subspace.project(A)
        return lro.residuals.Step(projection, subspace, A, a, direction=a, scale=1.0).outside()

    program = str(jax.make_jaxpr(outside)(jnp.ones((4, 8))))
    assert program.count("reduce_max") == program.count("reduce_max[axes=(0,)") == reductions

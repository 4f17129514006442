"""What is left of a gradient, orthonormalised in blocks or with rows and columns balanced."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw

import lowrank_optax as lro

KERNEL = optax.contrib.MuonDimensionNumbers()


def step(gradient, residual, projection=None, scale=1.0):
    """One step with a zero direction inside, so that the rest alone is seen."""
    tx = lro.scale_by_low_rank(
        optax.set_to_zero(),
        projection or lro.projections.identity(2),
        residual=residual,
        scale=scale,
        dimension_numbers=KERNEL,
    )
    return jax.jit(lambda gradient: tx.update(gradient, tx.init(gradient))[0])(gradient)


newton_schulz = jax.jit(lambda parts: [lro.newton_schulz(part) for part in parts])


def left_over(G):
    """G (n, m) without its two rows of largest l1 norm."""
    rows = np.argsort(np.abs(G).sum(1))[-2:]
    E = np.array(G)
    E[rows] = 0
    return E


@pytest.mark.product(every=3)
@pytest.mark.parametrize("blocks", [1, 2, 4, 5])
def test_every_block_of_the_rest_is_orthonormalised_by_itself(blocks):
    G = draw((8, 20), 0)
    parts = np.array_split(left_over(G), range(-(-8 // blocks), 8, -(-8 // blocks)))
    expected = np.concatenate(newton_schulz(parts))
    got = step(G, lro.residuals.orthonormal(blocks))
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_more_blocks_than_rows_make_every_row_a_block_of_length_one():
    got = step(
        draw((3, 20), 1), lro.residuals.orthonormal(9, ns_coeffs="polar_express", ns_steps=8)
    )
    np.testing.assert_allclose(np.sort(np.linalg.norm(got, axis=1)), [0, 0, 1], atol=1e-4)


def test_a_dct_rest_is_orthonormalised_in_the_coefficients():
    G = draw((8, 20), 2)
    S = np.asarray(lro.orthogonal_dct(G, axis=0))
    blocks = np.split(left_over(S), 2)
    expected = lro.orthogonal_idct(jnp.concatenate(newton_schulz(blocks)), axis=0)
    got = step(G, lro.residuals.orthonormal(2), lro.projections.dct(2))
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_sinkhorn_divides_columns_and_rows_by_their_lengths_in_turn():
    G = draw((6, 10), 3)
    E = left_over(G)
    rows = np.any(E != 0, axis=1)
    for _ in range(3):
        E = E / np.linalg.norm(E, axis=0) * np.sqrt(6 / 10)
        E[rows] /= np.linalg.norm(E[rows], axis=1, keepdims=True)
    np.testing.assert_allclose(step(G, lro.residuals.sinkhorn(3)), E, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("residual", [lro.residuals.orthonormal, lro.residuals.sinkhorn])
def test_the_rest_is_as_long_as_the_engine_and_its_own_scale_say(residual):
    G = draw((8, 20), 4)
    got = step(G, residual(scale=0.5), scale=lambda spec: float(spec.m))
    np.testing.assert_allclose(got, 10 * step(G, residual()), rtol=1e-5)


@pytest.mark.parametrize("residual", [lro.residuals.orthonormal(), lro.residuals.sinkhorn()])
def test_at_full_rank_nothing_is_left_to_compute(residual):
    make = lambda residual: lro.scale_by_low_rank(
        optax.identity(), lro.projections.identity(1.0), residual=residual, dimension_numbers=KERNEL
    )
    G, programs = draw((8, 20)), []
    for tx in (make(residual), make(lro.residuals.discard())):
        compiled = jax.jit(tx.update).lower(G, tx.init(G)).compile()
        programs.append(compiled.cost_analysis()["flops"])
    assert programs[0] == programs[1]


@pytest.mark.parametrize("residual", [lro.residuals.orthonormal(), lro.residuals.sinkhorn()])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_no_size_of_a_gradient_makes_the_rest_non_finite(residual, size):
    got = np.asarray(step(size * draw((8, 20), 5), residual))
    assert np.isfinite(got).all()
    assert np.any(got) == (size > 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lro.residuals.orthonormal(0), "blocks=0 must be at least 1"),
        (lambda: lro.residuals.sinkhorn(0), "rounds=0 must be at least 1"),
    ],
)
def test_counts_below_one_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [lro.residuals.orthonormal, lro.residuals.sinkhorn])
@pytest.mark.parametrize("count", [2.0, True])
def test_what_is_no_count_is_refused_where_it_is_given(make, count):
    with pytest.raises(TypeError, match=rf"={count} must be an int"):
        make(count)

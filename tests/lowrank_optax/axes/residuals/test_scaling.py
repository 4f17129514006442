"""Gradients scaled as the inner optimizer scales, against restatements in NumPy."""

import numpy as np
import optax
import pytest
from drawing import draw

import lowrank_optax as lro

KERNEL = optax.contrib.MuonDimensionNumbers()
DOUBLED = optax.stateless(lambda a, _: a * np.arange(1.0, 13.0, dtype=np.float32))


def steps(residual, gradients, scale=1.0):
    tx = lro.scale_by_low_rank(
        DOUBLED,
        lro.projections.identity(2),
        residual=residual,
        scale=scale,
        dimension_numbers=KERNEL,
    )
    state = tx.init(gradients[0])
    for G in gradients:
        update, state = tx.update(G, state)
        yield np.asarray(update)


def limited(S, last, limit=1.01):
    norm = np.linalg.norm(S)
    L = max(norm / last / limit, 1) if last else 1
    return S / L, norm / L


GRADIENTS = [size * draw((5, 12), i) for i, size in enumerate((1.0, 3.0, 0.5))]


def test_apollo_scales_every_channel_of_the_whole_gradient():
    last = 0.0
    for G, got in zip(
        GRADIENTS, steps(lro.residuals.gradient_scaling(scale=2.0), GRADIENTS), strict=True
    ):
        expected, last = limited(np.asarray(G) * np.arange(1, 13), last)
        np.testing.assert_allclose(got, 2 * expected, rtol=1e-5)


def test_apollo_mini_scales_the_matrix_by_one_number():
    (got,) = steps(lro.residuals.gradient_scaling("tensor"), GRADIENTS[:1], scale=3.0)
    G = np.asarray(GRADIENTS[0])
    a = G[np.sort(np.argsort(np.abs(G).sum(1))[-2:])]
    phi = np.linalg.norm(a * np.arange(1, 13)) / np.linalg.norm(a)
    np.testing.assert_allclose(got, 3 * phi * G, rtol=1e-5)


def test_alice_whitens_the_columns_of_what_is_left_over():
    last, p = 0.0, np.zeros(12)
    residual = lro.residuals.column_scaling(0.9, 0.4)
    for G, got in zip(GRADIENTS, steps(residual, GRADIENTS, scale=0.3), strict=True):
        G = np.asarray(G, np.float64)
        rows = np.sort(np.argsort(np.abs(G).sum(1))[-2:])
        E = G.copy()
        E[rows] = 0
        p = 0.9 * p + 0.1 * (E**2).sum(0)
        C, last = limited(np.sqrt(5 - 2) * E / np.sqrt(p), last)
        expected = 0.4 * C
        expected[rows] = G[rows] * np.arange(1, 13)
        np.testing.assert_allclose(got, 0.3 * expected, rtol=1e-5)


def test_scaling_needs_a_projection_that_keeps_vectors_apart():
    both = lro.projections.two_sided(lro.projections.dct(2), lro.projections.dct(2))
    for make in (lro.residuals.gradient_scaling, lro.residuals.column_scaling):
        with pytest.raises(ValueError, match="that is not compressed, but the projection"):
            lro.scale_by_low_rank(optax.identity(), both, residual=make())


def test_an_unknown_kind_of_scaling_is_refused():
    with pytest.raises(ValueError, match="by='row' is unknown; use 'channel' or 'tensor'"):
        lro.residuals.gradient_scaling("row")

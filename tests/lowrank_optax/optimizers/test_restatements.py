"""Whole recipes against their equations in NumPy, over steps with and without a new subspace."""

import math

import jax
import numpy as np
import pytest
from restating import (
    GRADIENTS,
    KERNEL,
    Adam,
    M,
    N,
    agree,
    largest,
    limited,
    newton_schulz,
    steps,
)

import lowrank_optax as lro

RATE = 0.1


@pytest.mark.parametrize("name", ["apollo", "apollo_mini"])
def test_apollo_is_the_gradient_scaled_as_adam_scales_it_in_a_random_subspace(name):
    mini = name == "apollo_mini"
    own = {} if mini else {"rank": 3, "scale": 0.7}
    r, scale, axis = (1, math.sqrt(128), None) if mini else (3, 0.7, 0)
    tx = getattr(lro, name)(RATE, update_interval=2, dimension_numbers=KERNEL, **own)
    adam, last, before = Adam(0.9, 0.999), 0.0, None
    for count, (G, P, got) in enumerate(steps(tx)):
        np.testing.assert_allclose(P.T @ P, np.eye(r), atol=1e-5)
        assert count == 0 or np.array_equal(P, before) == (count % 2 == 1)
        before = P
        a = math.sqrt(N / r) * P.T @ G
        phi = np.linalg.norm(adam(a), axis=axis) / np.linalg.norm(a, axis=axis)
        S, last = limited(phi * G, last)
        agree(got, -RATE * scale * S)


def test_alice0_is_uncorrected_adam_in_its_subspace_and_the_rest_whitened_by_columns():
    r, b1, b2, alpha, compensation = 4, 0.8, 0.95, 0.3, 0.4
    tx = lro.alice0(RATE, r, update_interval=2, b1=b1, b2=b2, dimension_numbers=KERNEL)
    adam, p, last = Adam(b1, b2, corrected=False), 0.0, 0.0
    for count, (G, P, got) in enumerate(steps(tx)):
        if count % 2 == 0:  # 40 of 128 are the leading singular vectors: two of four.
            chosen = np.abs(np.linalg.svd(G)[0].T @ P)
            np.testing.assert_allclose(np.sort(chosen, 0)[-1], 1, atol=1e-4)
            np.testing.assert_allclose(chosen.sum(1)[:2], 1, atol=1e-3)
        E = G - P @ (P.T @ G)
        p = b1 * p + (1 - b1) * ((G**2).sum(0) - ((P.T @ G) ** 2).sum(0))
        C, last = limited(math.sqrt(N - r) * E / np.sqrt(p), last)
        agree(got, -RATE * alpha * (P @ adam(P.T @ G) + compensation * C))


@pytest.mark.product(every=2)
@pytest.mark.parametrize("rank", [2, N])
def test_dion3_is_the_largest_rows_of_its_momentum_with_normalised_neurons(rank):
    mu, b2 = 0.9, 0.95
    momentum, nu = np.zeros((N, M)), np.zeros(M)
    for G, _, got in steps(lro.dion3(RATE, rank, dimension_numbers=KERNEL)):
        momentum += G
        I = largest(momentum, rank)
        U = np.zeros((N, M))
        U[I] = math.sqrt(N / rank) * math.sqrt(M / N) * newton_schulz(momentum[I])
        momentum[I] *= mu
        nu = b2 * nu + (1 - b2) * (U**2).mean(0)
        normalised = U / np.sqrt(nu)
        agree(got, -RATE * normalised * np.linalg.norm(U) / np.linalg.norm(normalised))


@pytest.mark.product
@pytest.mark.parametrize("residual_decay", [1.0, 0.9])
@pytest.mark.parametrize("nesterov", [True, False])
def test_trion_is_the_largest_rows_of_its_momentums_dct(nesterov, residual_decay):
    r, mu = 3, 0.9
    tx = lro.trion(
        RATE,
        r,
        momentum=mu,
        residual_decay=residual_decay,
        nesterov=nesterov,
        dimension_numbers=KERNEL,
    )
    Q = np.cos(np.pi * (2 * np.arange(N)[:, None] + 1) * np.arange(N) / (2 * N))
    Q /= np.linalg.norm(Q, axis=0)
    S = np.zeros((N, M))
    for G, _, got in steps(tx):
        S += Q.T @ G
        I = largest(S, r)
        b = mu * S + Q.T @ G if nesterov else S
        agree(got, -RATE * math.sqrt(M / N) * Q[:, I] @ newton_schulz(b[I]))
        S *= np.where(np.isin(np.arange(N), I), mu, residual_decay)[:, None]


@pytest.mark.product(every=2)
@pytest.mark.parametrize("nesterov", [True, False])
def test_dion_is_one_power_iteration_on_its_momentum(nesterov):
    r, mu = 3, 0.9
    tx = lro.dion(RATE, r, momentum=mu, nesterov=nesterov, dimension_numbers=KERNEL)
    start = jax.jit(tx.init)(GRADIENTS[0])
    Q = np.asarray(lro.matrix_states(start)[0].basis, np.float64)
    momentum = np.zeros((N, M))
    for G, basis, got in steps(tx):
        momentum += G
        B = mu * momentum + G if nesterov else momentum
        P = np.linalg.qr(B.T @ Q)[0]
        Q = B @ P / np.linalg.norm(B @ P, axis=0)
        agree(got, -RATE * math.sqrt(M / N) * Q @ P.T)
        agree(np.abs(basis), np.abs(Q))  # QR's signs are its own.
        momentum -= (1 - mu) * momentum @ P @ P.T

"""For restatements of whole recipes in NumPy: gradients, steps, and what several of them share."""

import jax
import numpy as np
import optax
from drawing import draw

import lowrank_optax as lro

KERNEL = optax.contrib.MuonDimensionNumbers()
N, M = 8, 20
SIZES = (1.0, 3.0, 0.5, 2.0)  # so that the limits on growth are met, and are not
GRADIENTS = [size * draw((N, M), seed) for seed, size in enumerate(SIZES)]


def steps(tx, dtype="float32"):
    """(G, the state's basis, the update) of a kernel whose rows are the compressed side."""
    params = draw((N, M), 99, dtype)
    state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
    for G in GRADIENTS:
        updates, state = update(G.astype(dtype), state, params)
        (matrices,) = lro.matrix_states(state)
        yield np.asarray(G, np.float64), np.asarray(matrices.basis), np.asarray(updates)


def agree(got, expected, tolerance=2e-5):
    """Relative to the length of the step, by default up to the rounding of float32."""
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.linalg.norm(expected))


def newton_schulz(x):
    """Five steps of Muon's quintic, on a matrix that is not tall; zeros stay zeros."""
    x = x / (np.linalg.norm(x) or 1)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def largest(x, r):
    """The r rows of largest l1 norm, ascending."""
    return np.sort(np.argsort(np.abs(x).sum(1))[-r:])


def limited(S, last, limit=1.01):
    """S as long as the limit on its growth admits, and its length."""
    S = S / max(np.linalg.norm(S) / last / limit, 1) if last else S
    return S, np.linalg.norm(S)


class Adam:
    """With bias correction, or without."""

    def __init__(self, b1, b2, eps=1e-8, corrected=True):
        self.b1, self.b2, self.eps, self.corrected = b1, b2, eps, corrected
        self.m, self.v, self.t = 0.0, 0.0, 0

    def __call__(self, a):
        self.t += 1
        self.m = self.b1 * self.m + (1 - self.b1) * a
        self.v = self.b2 * self.v + (1 - self.b2) * a**2
        c1, c2 = (1 - self.b1**self.t, 1 - self.b2**self.t) if self.corrected else (1, 1)
        return self.m / c1 / (np.sqrt(self.v / c2) + self.eps)

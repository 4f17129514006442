"""Published methods, by their calls in docs/published.md, against their equations in NumPy.

What the page's last column says of a method is so here too. Subspaces change at every second step,
where the page has every 200. SUMO's equations are its paper's and SNSM's its published code's;
those of NuMuon, Orth-Dion and Grass are as others summarise them, GreedyLore's as the page does.
"""

import pathlib
import re

import numpy as np
import optax
import pytest
from restating import Adam, M, N, agree, steps

import lowrank_optax as lro

RATE, R, T = 0.1, 2, 2
PAGE = pathlib.Path(__file__).parents[3] / "docs" / "published.md"
TEXT = PAGE.read_text(encoding="utf-8").replace("interval=200", f"interval={T}")
CALLS = dict(re.findall(r"\| (.*?) \| `(.*?)` \|", re.sub(r", \[\d+\.\d+\]\S+\)", "", TEXT)))

pytestmark = pytest.mark.usefixtures("float64")


def published(method):
    """(count, G, the update) of the page's call."""
    tx = eval(CALLS[method], {"lro": lro, "optax": optax, "rate": RATE, "r": R})
    for count, (G, _, got) in enumerate(steps(tx, "float64")):
        assert got.dtype == np.float64
        yield count, G, got


def leading(A):
    """The R leading singular vectors of the compressed side."""
    return np.linalg.svd(A)[0][:, :R]


def polar_factor(x):
    U, _, Vt = np.linalg.svd(x, full_matrices=False)
    return U @ Vt


def test_sumo_is_an_orthonormal_moment_and_the_gradient_outside():
    """Algorithm 1 of arXiv 2505.24749v2 without its optional block 3."""
    Q, moment = np.zeros((N, R)), np.zeros((R, M))
    for count, G, got in published("SUMO"):
        if count % T == 0:
            Q, last = leading(G), Q
            moment = Q.T @ last @ moment
        moment = 0.95 * moment + Q.T @ G
        agree(got, G - Q @ (Q.T @ G - polar_factor(moment)), 1e-12)


def test_numuon_is_the_leading_singular_vectors_of_a_momentum():
    """U Vᵀ of the leading singular vectors of M ← β M + (1 − β) G; here without the factor."""
    momentum = np.zeros((N, M))
    for _, G, got in published("NuMuon"):
        momentum = 0.95 * momentum + G
        U, _, Vt = np.linalg.svd(momentum, full_matrices=False)
        agree(got, U[:, :R] @ Vt[:R], 1e-12)


def test_orth_dion_is_a_power_iteration_on_what_is_fed_back():
    """U = orth(M V), W = Mᵀ U, X ← X − η U V̄ᵀ, R ← β (M − U Uᵀ M), as the page varies it."""
    U, rest = None, np.zeros((N, M))
    for _, G, got in published("Orth-Dion"):
        A = G + rest
        U = leading(A) if U is None else np.linalg.qr(A @ (A.T @ U))[0]
        agree(got, U @ polar_factor(U.T @ A), 1e-12)
        rest = 0.95 * (A - U @ U.T @ A)


def test_snsm_is_a_momentum_in_the_subspace_and_the_gradient_outside():
    """m ← β m + (1 − β) Pᵀ G, which starts anew with P; X ← X − η (P m + G − P Pᵀ G)."""
    for count, G, got in published("Subspace momentum of SNSM"):
        if count % T == 0:
            P, moment = leading(G), 0.0
        moment = 0.9 * moment + 0.1 * P.T @ G
        agree(got, P @ moment + G - P @ P.T @ G, 1e-12)


def test_grass_is_adam_on_the_longest_rows_starting_anew_with_them():
    for count, G, got in published("Grass, top r"):
        if count % T == 0:
            I, adam = np.argsort(np.linalg.norm(G, axis=1))[-R:], Adam(0.9, 0.999)
        step = np.zeros((N, M))
        step[I] = adam(G[I])
        agree(got, -RATE * step, 1e-12)


def test_greedylore_is_adam_on_low_rank_gradients_with_feedback_as_the_page_varies_it():
    error, adam = np.zeros((N, M)), Adam(0.9, 0.999)
    for count, G, got in published("GreedyLore"):
        A = G + error
        if count % T == 0:
            P = leading(A)
        error = A - P @ P.T @ A
        agree(got, adam(P @ P.T @ A), 1e-12)

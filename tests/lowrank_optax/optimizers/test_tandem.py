"""Tandem against a restatement in NumPy; Muon, NorMuon and Dion2 against what they are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw
from restating import largest, newton_schulz

import lowrank_optax as lro

KERNEL = optax.contrib.MuonDimensionNumbers()
GRADIENTS = [draw((8, 20), i) for i in range(5)]
DION = np.sqrt(20 / 8)  # the scale of steps by their shape


def steps(tx, gradients=GRADIENTS):
    """Updates of a kernel (8, 20) that starts anywhere."""
    params = draw((8, 20), 99)
    state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
    for G in gradients:
        updates, state = update(G, state, params)
        yield np.asarray(updates)


def polar_factor(x):
    """U Vᵀ of x = U S Vᵀ; directions without length stay zero, as those of rows of zeros."""
    U, s, Vt = jnp.linalg.svd(x, full_matrices=False)
    return (U * (s > 1e-5 * s[..., :1])[..., None, :]) @ Vt


def restated(
    gradients,
    r=2,
    mu=0.9,
    blocks=4,
    b2=0.95,
    rest=True,
    nesterov=True,
    orthonormal=newton_schulz,
    scale=DION,
):
    """Tandem on kernels (n, m) whose rows are the compressed side, so that columns are neurons."""
    n, m = gradients[0].shape
    M, nu = np.zeros((n, m)), np.zeros(m)
    for G in (np.asarray(G, np.float64) for G in gradients):
        I = largest(G + mu * M, r)
        chosen = np.isin(np.arange(n), I)[:, None]
        M = np.where(chosen, mu * M + G, 0)
        step = np.zeros((n, m))
        step[I] = orthonormal((mu * M + G if nesterov else M)[I])
        if rest:
            E = np.where(chosen, 0, G)
            step += np.concatenate([orthonormal(part) for part in np.split(E, blocks)])
        step *= scale
        if b2 is not None:
            nu = b2 * nu + (1 - b2) * (step**2).mean(0)
            normalized = step / np.sqrt(nu)
            step = normalized * np.linalg.norm(step) / np.linalg.norm(normalized)
        yield -0.1 * step


@pytest.mark.product(every=2)
@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({}, {}),
        ({"blocks": 2}, {"blocks": 2}),
        ({"rest": "none"}, {"rest": False}),
        ({"neuron_decay": None}, {"b2": None}),
        ({"momentum": 0.5, "nesterov": False}, {"mu": 0.5, "nesterov": False}),
    ],
    ids=str,
)
def test_tandem_is_its_equations(settings, same):
    tx = lro.tandem(0.1, 2, mu_dtype=None, dimension_numbers=KERNEL, **settings)
    for got, expected in zip(steps(tx), restated(GRADIENTS, **same), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5)


def exactly(x):
    U, s, Vt = np.linalg.svd(x, full_matrices=False)
    return U[:, s > 1e-8] @ Vt[s > 1e-8]


def test_a_function_orthonormalises_in_place_of_newton_schulz():
    tx = lro.tandem(0.1, 2, mu_dtype=None, ns_coeffs=polar_factor, dimension_numbers=KERNEL)
    for got, expected in zip(steps(tx), restated(GRADIENTS, orthonormal=exactly), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5)


@pytest.mark.product(every=3)
@pytest.mark.parametrize("make", [lro.muon, lro.trion, lro.dion2])
def test_every_orthonormal_method_of_the_engine_takes_such_a_function(make):
    own = {} if make is lro.muon else {"rank": 3}
    tx = make(0.1, ns_coeffs=polar_factor, shape_scale="none", dimension_numbers=KERNEL, **own)
    *_, last = steps(tx)
    lengths = np.linalg.svd(last / 0.1)[1]
    np.testing.assert_allclose(lengths, np.arange(8) < own.get("rank", 8), atol=1e-5)


def test_tandem_of_full_rank_is_muon():
    tandem = lro.tandem(0.1, 1.0, neuron_decay=None, mu_dtype=None, dimension_numbers=KERNEL)
    muon = lro.muon(0.1, momentum=0.9, shape_scale="dion", dimension_numbers=KERNEL)
    for got, expected in zip(steps(tandem), steps(muon), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.product(every=4)
@pytest.mark.parametrize(
    "make",
    [
        lro.muon,
        lro.normuon,
        functools.partial(lro.tandem, rank=1.0, mu_dtype=None),
        functools.partial(lro.tandem, rank=1.0, mu_dtype=None, projection="dct"),
        functools.partial(lro.tandem, rank=1.0, mu_dtype=None, rank_scale="sqrt"),
        functools.partial(lro.trion, rank=1.0, momentum=0.9),
    ],
    ids=["muon", "normuon", "tandem", "tandem dct", "tandem sqrt", "trion"],
)
def test_of_full_rank_the_step_is_the_same_whichever_side_is_compressed(make):
    smaller, larger = (make(0.1, compress=side, dimension_numbers=KERNEL) for side in ("in", "out"))
    for got, expected in zip(steps(larger), steps(smaller), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5)


def test_muon_without_nesterov_is_that_of_optax():
    # With it, optax weighs momentum and gradient by bias corrections of different counts.
    ours = lro.muon(0.1, nesterov=False, dimension_numbers=KERNEL)
    theirs = optax.contrib.muon(0.1, nesterov=False, muon_weight_dimension_numbers=KERNEL)
    for got, expected in zip(steps(ours), steps(theirs), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({}, {"mu": 0.95, "scale": 0.2 * np.sqrt(20)}),
        ({"momentum": 0.9, "shape_scale": "dion"}, {}),
    ],
    ids=str,
)
def test_normuon_is_muon_with_normalised_neurons(settings, same):
    normuon = lro.normuon(0.1, dimension_numbers=KERNEL, **settings)
    expected = restated(GRADIENTS, r=8, rest=False, **same)
    for got, step in zip(steps(normuon), expected, strict=True):
        np.testing.assert_allclose(got, step, atol=2e-5)


def test_dion2_decays_what_it_has_applied_and_nothing_else():
    M = np.zeros((8, 20))
    for G, got in zip(GRADIENTS, steps(lro.dion2(0.1, 2, dimension_numbers=KERNEL)), strict=True):
        M = M + np.asarray(G)
        I = largest(M, 2)
        expected = np.zeros((8, 20))
        expected[I] = newton_schulz(M[I]) * DION
        M[I] *= 0.95
        np.testing.assert_allclose(got, -0.1 * expected, atol=2e-5)


@pytest.mark.parametrize("make", [lro.muon, lro.normuon])
def test_without_a_momentum_nothing_of_the_matrix_size_is_kept(make):
    none = make(0.1, momentum=None, dimension_numbers=KERNEL)
    zero = make(0.1, momentum=0.0, dimension_numbers=KERNEL)
    for got, expected in zip(steps(none), steps(zero), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert max(leaf.size for leaf in jax.tree.leaves(none.init(draw((8, 20))))) <= 20


def test_without_a_momentum_the_columns_are_those_of_the_gradient():
    plain = lro.tandem(0.1, 0.5, momentum=None, neuron_decay=None, dimension_numbers=KERNEL)
    expected = restated(GRADIENTS, r=4, mu=0.0, b2=None)
    for got, wanted in zip(steps(plain), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_what_a_missing_momentum_cannot_have_is_refused():
    with pytest.raises(ValueError, match="mu_dtype='int8' stores a momentum, but momentum=None"):
        lro.muon(0.1, momentum=None, mu_dtype="int8")
    with pytest.raises(ValueError, match="follows a momentum, but momentum=None"):
        lro.tandem(0.1, momentum=None, select=lro.selection.following(0.9))
    with pytest.raises(ValueError, match="mu_dtype='int3' must be one of"):
        lro.tandem(0.1, momentum=None, mu_dtype="int3")


@pytest.mark.product(every=4)
@pytest.mark.parametrize("mu_dtype", ["int8", "int4", "int2", "sign"])
def test_a_quantised_tandem_stays_near_the_exact_one(mu_dtype):
    exact = list(steps(lro.tandem(0.1, 0.5, mu_dtype=None, dimension_numbers=KERNEL)))
    stored = list(steps(lro.tandem(0.1, 0.5, dimension_numbers=KERNEL, mu_dtype=mu_dtype)))
    apart = np.linalg.norm(stored[-1] - exact[-1]) / np.linalg.norm(exact[-1])
    assert 0 < apart < {"int8": 0.05, "int4": 0.5, "int2": 1, "sign": 1}[mu_dtype]


@pytest.mark.product(every=5)
@pytest.mark.parametrize("projection", ["identity", "dct", "hadamard", "power_iteration", "svd"])
@pytest.mark.parametrize("rest", ["orthonormal", "sinkhorn", "none"])
def test_every_basis_and_every_rest_takes_steps_of_one_length(projection, rest):
    tx = lro.tandem(
        0.1,
        0.5,
        projection=projection,
        rest=rest,
        ns_coeffs=polar_factor,
        dimension_numbers=KERNEL,
    )
    *_, last = steps(tx)
    # Of a fixed basis the rest has rows where the chosen ones are not. Of a learned one it has as
    # many rows as the matrix, blocks of which are only nearly orthogonal to the subspace.
    fixed = projection in ("identity", "dct", "hadamard")
    rows = 4 + (0 if rest == "none" else 4 if fixed else 8)
    exact = fixed or rest == "none"
    np.testing.assert_allclose(
        np.linalg.norm(last), 0.1 * DION * np.sqrt(rows), rtol=1e-5 if exact else 0.05
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rest": "sign"}, "rest='sign' is unknown; use one of"),
        ({"rest": "none", "blocks": 2}, "blocks=2 are those of rest='orthonormal', not of"),
        ({"blocks": 0}, "blocks=0 must be at least 1"),
        ({"momentum": 2.0}, r"momentum=2.0 must lie in \[0, 1\]"),
        ({"projection": "pca"}, "projection='pca' is unknown"),
        ({"rest": lro.residuals.momentum()}, "rest=Momentum.* keeps a momentum of the whole"),
    ],
)
def test_what_tandem_cannot_do_is_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        lro.tandem(0.1, **settings)


def test_what_follows_the_momentum_does_so_with_its_own_weight():
    first, second = draw((8, 20), 0), draw((8, 20), 1).at[0].multiply(0.1)
    updates = []
    for weight in (0.0, 100.0):
        tx = lro.tandem(
            0.1, rank=1, select=lro.selection.following(weight), dimension_numbers=KERNEL
        )
        _, state = tx.update(first.at[0].multiply(10), tx.init(first), first)
        updates.append(lro.matrix_states(tx.update(second, state, first)[1])[0].basis)
    assert updates[0].tolist() != [0] == updates[1].tolist()


def test_blocks_come_from_python_under_injected_hyperparameters():
    tx = optax.inject_hyperparams(lro.tandem, static_args=("rank", "ns_steps"))(
        0.1, rank=2, blocks=2
    )
    with pytest.raises(TypeError, match="blocks must be a Python value"):
        tx.init(draw((8, 20)))


@pytest.mark.parametrize("make", [lro.tandem, lro.trion, lro.dion2])
def test_so_does_the_number_of_iterations_by_its_own_name(make):
    tx = optax.inject_hyperparams(make, static_args=("rank",))(0.1, rank=2, ns_steps=5)
    with pytest.raises(TypeError, match=r"static_args=\('ns_steps', ...\)"):
        tx.init(draw((8, 20)))

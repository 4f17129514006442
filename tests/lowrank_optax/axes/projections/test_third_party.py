"""A projection from outside of this package works like those inside, by the contract alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw
from methods import compiled

import lowrank_optax as lro
from lowrank_optax.axes._value import axis_value

projections = lro.projections
N, M, RANK = 6, 10, 2


@dataclasses.dataclass(frozen=True)
class Reflected(projections.Transition):
    R: jax.Array

    def carry(self, x):
        return self.R.mT @ x

    def carry_squared(self, x):
        return jnp.square(self.R).mT @ x

    def overlap(self):
        return jnp.sum(jnp.square(self.R), (-2, -1)) / self.R.shape[-1]


@dataclasses.dataclass(frozen=True)
class Columns(projections.Subspace):
    """Some columns of the Householder reflection H that takes v to a multiple of (1, …, 1)."""

    P: jax.Array

    def project(self, A):
        return self.P.mT @ A

    def embed(self, u):
        return self.P @ u

    def lift(self, u):
        return self.P @ u

    def since(self, previous):
        return Reflected(previous.P.mT @ self.P)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Householder(projections.Projection):
    """The first columns of I − 2 v vᵀ, where v is the direction of the gradient's mean column."""

    rank: int

    def init(self, shape, rank, dtype, key):
        return jnp.broadcast_to(jnp.eye(shape[-2], rank, dtype=dtype), (*shape[:-1], rank))

    def refresh(self, choice):
        v = jnp.mean(choice.A, axis=-1, keepdims=True)
        v = v / jnp.linalg.norm(v, axis=-2, keepdims=True)
        return (jnp.eye(v.shape[-2]) - 2 * v * v.mT)[..., : choice.rank]

    def subspace(self, basis, shape, dtype=None):
        return Columns(basis)


def householder(G):
    v = G.mean(axis=-1, keepdims=True)
    v /= np.linalg.norm(v)
    return (np.eye(N) - 2 * v * v.T)[:, :RANK]


def test_what_it_leaves_out_is_fed_back_and_its_moments_are_rotated():
    """Momentum m ← β Rᵀ m + a in its coordinates, restated in NumPy over two refreshes."""
    tx = compiled(
        lro.scale_by_low_rank(
            optax.trace(0.5),
            Householder(RANK),
            update_interval=2,
            transport="rotate",
            residual=lro.residuals.error_feedback("float32"),
        )
    )
    state = tx.init(draw((N, M)))
    E, m, P = np.zeros((N, M)), np.zeros((RANK, M)), None
    for step in range(4):
        updates, state = tx.update(draw((N, M), step), state)
        A = np.float64(draw((N, M), step)) + E
        if step % 2 == 0:
            previous, P = P, householder(A)
            m = m if previous is None else (previous.T @ P).T @ m
        a = P.T @ A
        E, m = A - P @ a, 0.5 * m + a
        np.testing.assert_allclose(updates, P @ m, atol=1e-5)
        np.testing.assert_allclose(state.residual, E, atol=1e-5)


def test_it_is_measured_adapted_to_and_split_like_any_other():
    tx = lro.low_rank(
        0.1, projection=Householder(RANK), update_interval=lro.adaptive(1), transport="keep"
    )
    params = {"w": draw((N, M)), "stack": draw((2, N, M), 1)}
    updates, state = compiled(tx).update(params, compiled(tx).init(params), params)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
    (matrices,) = lro.matrix_states(state)
    captured = lro.diagnostics.captured_energy(params["w"], Householder(RANK), matrices.basis["w"])
    a = householder(np.float64(params["w"])).T @ params["w"]
    np.testing.assert_allclose(captured, np.sum(a**2) / np.sum(params["w"] ** 2), rtol=1e-4)


def test_without_a_part_of_the_contract_it_cannot_be_made():
    class Partial(projections.Projection):
        def refresh(self, choice):
            return choice.basis

    with pytest.raises(TypeError, match=r"abstract.*init.*subspace"):
        Partial()


@axis_value()
class Needing(projections.LearnedBasis):
    """A basis of one's own that needs another axis to be something."""

    rank: int

    def refresh(self, choice):
        return choice.basis

    def check(self, parts):
        raise ValueError(f"{self} was asked about {parts.residual}")


@axis_value()
class Learning(projections.LearnedBasis):
    """One that changes between refreshes."""

    rank: int

    def refresh(self, choice):
        return choice.basis

    def settle(self, basis, A, a, refreshed):
        return basis + A @ a.mT


COMBINED = {
    "first": lambda one: projections.switch(one, projections.svd(RANK), 3),
    "second": lambda one: projections.switch(projections.svd(RANK), one, 3),
    "scheduled": lambda one: projections.scheduled_rank(one, abs),
}
SIDES = {
    "left": lambda one: projections.two_sided(one, projections.svd(RANK)),
    "right": lambda one: projections.two_sided(projections.svd(RANK), one),
}


@pytest.mark.parametrize("name", COMBINED | SIDES)
def test_what_is_combined_is_asked_what_it_needs_of_other_axes(name):
    with pytest.raises(ValueError, match=r"Needing\(rank=2\) was asked about Discard"):
        lro.scale_by_low_rank(optax.scale_by_adam(), (COMBINED | SIDES)[name](Needing(RANK)))


@pytest.mark.parametrize("name", COMBINED)
def test_what_learns_from_every_step_is_not_combined(name):
    with pytest.raises(TypeError, match=r"Learning\(rank=2\) learns from every step"):
        COMBINED[name](Learning(RANK))

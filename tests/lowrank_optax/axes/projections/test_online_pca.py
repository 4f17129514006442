"""A subspace that is moved by an optimizer at every step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import draw

import lowrank_optax as lro


@pytest.mark.parametrize("layers", [(), (2,)], ids=["one", "stack"])
def test_after_a_gradient_that_is_not_finite_the_basis_goes_on_moving(layers):
    projection = lro.projections.online_pca(2)
    A = draw((*layers, 6, 8))
    basis = projection.init(A.shape, 2, jnp.float32, jax.random.key(0))

    @jax.jit
    def settled(basis, A):
        a = projection.subspace(basis, A.shape).project(A)
        return projection.settle(basis, A, a, False)

    before = settled(basis, A)
    broken = settled(before, A.at[(0,) * A.ndim].set(jnp.nan))
    after = settled(broken, A)
    first = (0,) * len(layers)
    np.testing.assert_array_equal(broken.P[first], before.P[first])
    for leaf in jax.tree.leaves(after):
        assert jnp.all(jnp.isfinite(leaf))
    assert jnp.all(jnp.any(after.P != broken.P, axis=(-2, -1)))
    if layers:  # the other matrix of the stack has moved meanwhile
        assert jnp.any(broken.P[1] != before.P[1])

"""How long the steps are, by the shapes and ranks of the matrices."""

import functools

import jax
import numpy as np
import optax
import pytest
from drawing import draw

import lowrank_optax as lro

KERNEL = optax.contrib.MuonDimensionNumbers()
KEPT = {
    "tandem, orthonormal": lro.tandem,
    "tandem, sinkhorn": functools.partial(lro.tandem, rest="sinkhorn"),
    "tandem, one block": functools.partial(lro.tandem, rest=lro.residuals.orthonormal(1)),
}
"""Methods whose step has all columns at any rank."""
DROPPED = {
    **{name: getattr(lro, name) for name in ("trion", "dion", "dion2", "dion3")},
    "tandem, none": functools.partial(lro.tandem, rest="none"),
    "tandem, fed back": functools.partial(lro.tandem, rest=lro.residuals.error_feedback("float32")),
}
"""Methods whose step has r."""
MAKES = KEPT | DROPPED


def last_step(make, gradients, **settings):
    tx = make(1.0, dimension_numbers=KERNEL, **settings)
    state, update = jax.jit(tx.init)(gradients[0]), jax.jit(tx.update)
    for G in gradients:
        step, state = update(G, state, G)
    return np.asarray(step)


@pytest.mark.product(every=7)
@pytest.mark.parametrize("shape", [(16, 40), (40, 16)], ids=str)
@pytest.mark.parametrize("rank", [1 / 4, 1 / 2, 1.0])
@pytest.mark.parametrize("name", MAKES)
def test_the_root_mean_square_is_a_fifth_at_any_rank_whatever_becomes_of_the_rest(
    name, rank, shape
):
    gradients = [draw(shape, seed) for seed in range(4)]
    step = last_step(MAKES[name], gradients, rank=rank, shape_scale="rms", rank_scale="sqrt")
    # Dion's factors are orthonormal; Newton–Schulz brings singular values to 0.7 to 1.2.
    apart = 1e-5 if name == "dion" else 0.17
    np.testing.assert_allclose(np.sqrt(np.mean(step**2)), 0.2, rtol=apart)


@pytest.mark.product(every=4)
@pytest.mark.parametrize("name", MAKES)
def test_the_rank_s_scale_is_of_steps_inside_the_subspace_alone(name):
    plain, scaled = (
        last_step(MAKES[name], [draw((8, 20))], rank=2, rank_scale=scale)
        for scale in ("none", "sqrt")
    )
    np.testing.assert_allclose(scaled, (1 if name in KEPT else 2) * plain, rtol=1e-6)

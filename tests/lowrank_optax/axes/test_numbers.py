"""Numbers in the values of the axes are leaves of a pytree, so that steps can be traced in them."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from drawing import draw

import lowrank_optax as lro
from lowrank_optax import projections, refresh, residuals
from lowrank_optax.axes.transports import RotateMoments
from lowrank_optax.core.axes import Parts
from lowrank_optax.core.stored import StoredMoment

VALUES = {
    "dct": (projections.dct(4), []),
    "svd": (projections.svd(4, "hybrid"), []),
    "random": (projections.random(4), []),
    "power_iteration": (projections.power_iteration(rho=0.9, b1=0.8), [0.9, 0.8]),
    "power_iteration of the gradient": (projections.power_iteration(b1=0.8), [0.8]),
    "online_pca": (projections.online_pca(optimizer=optax.sgd(0.1), penalty=0.5), [0.5]),
    "random_orthogonal": (projections.random_orthogonal(seed=3), [3]),
    "switch": (projections.switch(projections.svd(4), projections.random(4), 7), [7]),
    "scheduled_rank": (
        projections.scheduled_rank(projections.power_iteration(rho=0.9, b1=0.8), abs),
        [0.9, 0.8],
    ),
    "two_sided": (
        projections.two_sided(projections.random_orthogonal(seed=3), projections.dct(4)),
        [3],
    ),
    "every step": (refresh.resolve(1), []),
    "interval": (refresh.resolve(5, offset=-1), [5, -1]),
    "staggered": (refresh.resolve(5, stagger=True), [5]),
    "discard": (residuals.discard(), []),
    "sign_descent": (residuals.sign_descent(0.1), [0.1]),
    "sgd": (residuals.sgd(0.1), [0.1]),
    "norm_scaling": (residuals.norm_scaling(1.1, 1e-6), [1.1, 1e-6]),
    "momentum": (residuals.momentum(0.9, 0.8), [0.9, 0.8]),
    "following": (projections.identity(4, lro.selection.following(0.9)), [0.9]),
    "orthonormal": (residuals.orthonormal(2, 0.5), [0.5]),
    "sinkhorn": (residuals.sinkhorn(2, 0.5), [0.5]),
    "gradient_scaling": (residuals.gradient_scaling("channel", 2.0, 1.1, 1e-6), [2.0, 1.1, 1e-6]),
    "column_scaling": (residuals.column_scaling(0.9, 0.4, 1.1, 1e-6), [0.9, 0.4, 1.1, 1e-6]),
    "error_feedback": (residuals.error_feedback("int8"), []),
    "error_feedback of the moment": (residuals.error_feedback(moment_decay=0.9), [0.9]),
    "rotate_moments": (RotateMoments(0.8, 0.7), [0.8, 0.7]),
}


@pytest.mark.parametrize("name", VALUES)
def test_the_leaves_of_a_value_are_its_numbers(name):
    value, numbers = VALUES[name]
    leaves, treedef = jax.tree.flatten(value)
    assert [leaf for leaf in leaves if not callable(leaf)] == numbers
    assert jax.tree.unflatten(treedef, leaves) == value
    hash(treedef)


@pytest.mark.slow
def test_a_whole_step_may_be_traced_in_every_number():
    """What `optax.inject_hyperparams` does to a method that is built of them."""

    def steps(rho, b1, decay, interval, scale, seed):
        axes = dict(
            update_interval=interval,
            transport=RotateMoments(b1, 0.9),
            residual=residuals.error_feedback(moment_decay=b1),
            scale=scale,
            seed=seed,
        )
        following = projections.power_iteration(2, rho=rho, b1=b1)
        tx = optax.chain(
            lro.scale_by_low_rank(optax.scale_by_adam(b1=b1), following, **axes),
            lro.scale_by_low_rank(
                optax.identity(), projections.random(6), residual=residuals.momentum(decay)
            ),
        )
        G = draw((6, 9))
        _, state = tx.update(G, tx.init(G))
        return tx.update(draw((6, 9), 1), state)

    numbers = (0.9, 0.8, 0.7, 2, 0.5, 3)
    arrays = tuple(jnp.asarray(number) for number in numbers)
    traced, plain = jax.jit(steps)(*arrays), steps(*numbers)
    chex.assert_trees_all_close(traced, plain, rtol=1e-4, atol=1e-5)


def test_the_engines_axes_are_a_pytree_of_all_their_numbers():
    value = lambda name: VALUES[name][0]
    parts = Parts(
        inner=optax.with_extra_args_support(optax.identity()),
        projection=value("power_iteration"),
        schedule=value("interval"),
        transport=value("rotate_moments"),
        residual=value("sgd"),
        stored=StoredMoment(lro.storage("int8")),
        scale=0.25,
    )
    assert jax.tree.leaves(parts) == [0.9, 0.8, 5, -1, 0.8, 0.7, 0.1, 0.25]

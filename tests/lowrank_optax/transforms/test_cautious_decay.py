"""Weight decay where it agrees with the step."""

import numpy as np
import optax
import pytest
from drawing import draw

import lowrank_optax as lro
from lowrank_optax.transforms import add_cautious_decay

KERNEL = optax.contrib.MuonDimensionNumbers()


def test_only_entries_that_the_step_moves_towards_zero_are_decayed():
    W, u = draw((5, 7)), draw((5, 7), 1)
    tx = add_cautious_decay(0.1)
    got, _ = tx.update(u, tx.init(W), W)
    np.testing.assert_allclose(got, np.where(u * W > 0, u + 0.1 * W, u), rtol=1e-6)


def test_every_method_takes_it():
    W, G = draw((6, 8)), draw((6, 8), 1)
    make = lambda **options: lro.trion(0.1, 2, dimension_numbers=KERNEL, **options)
    step = lambda tx: np.asarray(tx.update(G, tx.init(W), W)[0])
    plain, cautious = step(make()), step(make(weight_decay=0.3, cautious=True))
    np.testing.assert_allclose(
        cautious, plain - np.where(plain * W < 0, 0.1 * 0.3 * W, 0), rtol=1e-5, atol=1e-7
    )


def test_a_schedule_is_followed_as_optaxs_decay_follows_it():
    W = draw((5, 7))
    make = lambda schedule: (add_cautious_decay(schedule), optax.add_decayed_weights(schedule))
    states = None
    for _ in range(3):
        pair = make(optax.linear_schedule(0.3, 0.1, 2))
        states = states or [tx.init(W) for tx in pair]
        (got, first), (decayed, second) = (
            tx.update(W, state, W) for tx, state in zip(pair, states, strict=True)
        )
        states = first, second
        np.testing.assert_array_equal(got, decayed)  # a step that agrees with every weight
    lro.trion(0.1, 2, weight_decay=optax.constant_schedule(0.1), cautious=True).init(W)


def test_masked_leaves_are_not_decayed():
    params = {"decayed": draw((3,)), "kept": draw((3,), 1)}
    tx = add_cautious_decay(0.1, {"decayed": True, "kept": False})
    got, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_array_equal(got["kept"], params["kept"])
    assert np.all(got["decayed"] != params["decayed"])


def test_it_needs_the_parameters():
    tx = add_cautious_decay(0.1)
    with pytest.raises(ValueError, match="params"):
        tx.update(draw((3,)), tx.init(draw((3,))))

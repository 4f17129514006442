"""The inner optimizer's first moment in a few bits, or in any floating type, between steps."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw
from methods import compiled

import lowrank_optax as lro

KERNEL = optax.contrib.MuonDimensionNumbers()
ALL = lro.projections.identity(1.0)


def moments(mu_dtype, steps=3, inner=None, projection=ALL, transport="keep"):
    """Directions and the last state of a momentum over some gradients (8, 300)."""
    tx = lro.scale_by_low_rank(
        optax.trace(0.9) if inner is None else inner,
        projection,
        transport=transport,
        mu_dtype=mu_dtype,
        dimension_numbers=KERNEL,
    )
    tx = compiled(tx)
    state, found = tx.init(draw((8, 300))), []
    for i in range(steps):
        direction, state = tx.update(draw((8, 300), i), state)
        found.append(direction)
    return found, state


@pytest.mark.product(every=2)
@pytest.mark.parametrize(
    ("mu_dtype", "error"), [("int8", 0.02), ("int4", 0.25), ("int2", 0.6), ("bfloat16", 0.01)]
)
def test_a_stored_momentum_is_the_momentum_up_to_its_rounding(mu_dtype, error):
    exact, stored = moments(None)[0], moments(mu_dtype)[0]
    np.testing.assert_array_equal(stored[0], exact[0])  # nothing has been stored yet
    apart = np.linalg.norm(stored[2] - exact[2]) / np.linalg.norm(exact[2])
    assert 0 < apart < error


@pytest.mark.parametrize(("mu_dtype", "bits"), [("int8", 8), ("int4", 4), ("int2", 2), ("sign", 1)])
def test_the_state_holds_codes_and_one_scale_a_block(mu_dtype, bits):
    trace = moments(mu_dtype)[1].inner.trace
    assert trace.codes.nbytes == 8 * 300 * bits // 8
    assert trace.scale.shape == (1, 300)


def test_adams_first_moment_is_stored_and_its_second_is_not():
    state = moments("int8", inner=optax.scale_by_adam())[1]
    assert state.inner.mu.codes.dtype == jnp.int8
    assert state.inner.nu.dtype == jnp.float32


INNERS = {  # the field of the first moment, and who makes it
    "adam": ("mu", lro.transforms.resolve("adam")),
    "adam_mini": ("mu", lro.transforms.resolve("adam_mini")),
    "adafactor": ("ema", lro.transforms.resolve("adafactor")),
    "lion": ("mu", lro.transforms.resolve("lion")),
    "sgd": ("trace", lro.transforms.resolve("sgd")),
    "published_adam": ("mu", lro.transforms.scale_by_published_adam()),
    "unsigned_lion": ("mu", lro.transforms.scale_by_unsigned_lion()),
}


@pytest.mark.product(every=3)
@pytest.mark.parametrize("name", INNERS)
def test_a_stored_first_moment_is_decayed_in_float32_and_rounded_last(name):
    """0.9 in bfloat16 is 0.8984: a moment decayed there would settle 1.6 % too low."""
    field, inner = INNERS[name]
    storing = lro.scale_by_low_rank(inner, ALL, mu_dtype="bfloat16", dimension_numbers=KERNEL)
    state = storing.init(draw((3, 5)))
    for step in range(3):
        G = draw((3, 5), step)
        moment = getattr(state.inner, field)
        assert moment.dtype == jnp.bfloat16
        wide = state.inner._replace(**{field: moment.astype(jnp.float32)})
        expected, wide = inner.update(G, wide)
        direction, state = storing.update(G, state)
        np.testing.assert_allclose(direction, expected, rtol=1e-6)
        rounded = getattr(wide, field).astype(jnp.bfloat16)
        np.testing.assert_array_equal(getattr(state.inner, field), rounded)


@pytest.mark.product(every=3)
@pytest.mark.parametrize("transport", ["rotate", "rotate_first", "rotate_moments"])
def test_stored_moments_move_with_their_columns(transport):
    options = dict(
        inner=optax.scale_by_adam(), projection=lro.projections.dct(3), transport=transport
    )
    exact, stored = moments(None, **options)[0], moments("int8", **options)[0]
    assert np.linalg.norm(stored[2] - exact[2]) < 0.05 * np.linalg.norm(exact[2])


def test_stochastic_rounding_is_right_on_average_where_nearest_loses_small_gradients():
    momentum = lambda **options: lro.scale_by_low_rank(
        optax.trace(1.0), ALL, dimension_numbers=KERNEL, mu_dtype=lro.storage("int8", **options)
    )
    G = jnp.full((50, 64), 0.1).at[0].set(100.0)  # below half a step of the blocks' scale

    def final(tx):
        state, update = tx.init(G), jax.jit(tx.update)
        _, state = update(G, state)
        for _ in range(100):
            direction, state = update(G.at[0].set(0.0), state)
        return np.asarray(direction)[1:]

    np.testing.assert_allclose(final(momentum()), 0.1, atol=1e-6)
    assert abs(final(momentum(rounding="stochastic")).mean() - 10.1) < 0.2


@pytest.mark.product(every=2)
@pytest.mark.parametrize("mu_dtype", ["int8", "int4"])
def test_a_schedule_for_every_matrix_stores_them_too(mu_dtype):
    tx = lro.scale_by_low_rank(
        optax.trace(0.9),
        lro.projections.dct(2),
        update_interval=lro.adaptive(),
        transport="rotate",
        mu_dtype=mu_dtype,
        dimension_numbers=KERNEL,
    )
    tx, params = compiled(tx), {"a": draw((4, 9)), "b": draw((6, 5), 1)}
    state = tx.init(params)
    for _ in range(2):
        _, new = tx.update(params, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
        state = new


class Encoder(NamedTuple):
    mu: jax.Array
    trace: jax.Array


@pytest.mark.parametrize("update_interval", [1, lro.adaptive()], ids=["together", "each"])
def test_a_parameter_called_as_a_first_moment_keeps_its_second_one_as_it_is(update_interval):
    tx = lro.scale_by_low_rank(
        optax.scale_by_adam(),
        lro.projections.dct(3),
        update_interval=update_interval,
        transport="rotate",
        mu_dtype="int8",
    )
    params = Encoder(draw((6, 8)), draw((6, 8), 1))
    _, state = tx.update(params, tx.init(params))
    # Every matrix has a state of its own, or the state a tree of matrices.
    nu, mu = (
        (state.inner.mu.nu, state.inner.mu.mu)
        if isinstance(state.inner, Encoder)
        else (state.inner.nu.mu, state.inner.mu.mu)
    )
    assert nu.dtype == jnp.float32
    assert mu.codes.dtype == jnp.int8


@pytest.mark.parametrize("mu_dtype", ["int7", "int32", jnp.int8, object()])
def test_what_is_no_way_to_store_a_moment_is_refused(mu_dtype):
    with pytest.raises(
        ValueError, match=r"must be one of \['int8', .*'sign'\], a floating type, or None"
    ):
        lro.scale_by_low_rank(optax.trace(0.9), ALL, mu_dtype=mu_dtype)


@pytest.mark.parametrize(("block_size", "error"), [(0, ValueError), (2.5, TypeError)])
def test_a_block_of_no_size_is_refused_where_it_is_given(block_size, error):
    with pytest.raises(error, match=f"block_size={block_size} must be"):
        lro.storage("int8", block_size=block_size)


def test_an_inner_optimizer_without_a_first_moment_has_nothing_to_store():
    with pytest.raises(ValueError, match="mu_dtype='int8' does nothing: the state of a stateless"):
        lro.scale_by_low_rank(optax.identity(), ALL, mu_dtype="int8")
    with pytest.raises(ValueError, match="the state of scale_by_adam8bit has no first moment"):
        lro.galore(0.1, inner="adam8bit", mu_dtype="bfloat16")

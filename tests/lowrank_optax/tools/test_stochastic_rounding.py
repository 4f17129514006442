"""Stochastic rounding: unbiased, exact where it can be, and the same wherever the array is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import lowrank_optax as lro


def all_bfloat16():
    """All 2^16 of them, NaN included."""
    return jax.lax.bitcast_convert_type(jnp.arange(2**16, dtype=jnp.uint16), jnp.bfloat16)


def bits(x):
    return np.asarray(jax.lax.bitcast_convert_type(x, jnp.uint16))


def test_what_bfloat16_holds_is_rounded_to_itself_bit_for_bit():
    everything = all_bfloat16()
    rounded = lro.stochastic_round(everything.astype(jnp.float32), jax.random.key(0))
    number = ~np.isnan(np.asarray(everything, np.float32))
    # XLA's own conversion of the smallest numbers flushes them to zero on some devices.
    normal = np.abs(np.asarray(everything, np.float32)) >= np.finfo(np.float32).tiny
    same = bits(rounded) == bits(everything)
    assert same[number & normal].all()
    assert np.isnan(np.asarray(rounded, np.float32)[~number]).all()


def test_entries_go_to_one_of_their_two_neighbours():
    x = jax.random.normal(jax.random.key(0), (10_000,)) * jnp.exp2(jnp.arange(10_000.0) % 100 - 50)
    towards_zero = np.asarray(jax.lax.bitcast_convert_type(x, jnp.uint32)) >> 16
    away = bits(lro.stochastic_round(x, jax.random.key(1))) - towards_zero
    assert set(np.unique(away)) == {0, 1}


@pytest.mark.parametrize("value", [1.001, -3.3, 1e-30, 65_537.0, 0.1])
def test_the_mean_over_many_draws_is_the_value(value):
    count = 2**18
    x = jnp.full(count, value, jnp.float32)
    rounded = np.asarray(lro.stochastic_round(x, jax.random.key(2)), np.float64)
    ulp = 2.0 ** (np.floor(np.log2(abs(value))) - 7)
    # Five standard deviations of the mean of draws that are each 0 or 1 units.
    assert abs(rounded.mean() - np.float64(np.float32(value))) < 5 * 0.5 * ulp / np.sqrt(count)


def test_typed_and_raw_keys_round_alike():
    params = {"a": jax.random.normal(jax.random.key(0), (1000,)).astype(jnp.bfloat16)}
    step = {"a": jnp.full(1000, 1e-3, jnp.bfloat16)}
    typed = lro.apply_updates_stochastic(params, step, jax.random.key(5))
    raw = jax.jit(lro.apply_updates_stochastic)(params, step, jax.random.PRNGKey(5))
    np.testing.assert_array_equal(bits(raw["a"]), bits(typed["a"]))


def test_only_float32_is_rounded():
    with pytest.raises(TypeError, match="only float32 is rounded to bfloat16 stoch"):
        lro.stochastic_round(jnp.ones(3, jnp.float16), jax.random.key(0))


def test_updates_below_half_a_unit_move_parameters_only_with_stochastic_rounding():
    params = {"kernel": jnp.ones((64, 64), jnp.bfloat16)}
    update = {"kernel": jnp.full((64, 64), 1e-4, jnp.bfloat16)}  # 1 / 78 of a unit

    @jax.jit
    def step(params, index):
        return lro.apply_updates_stochastic(
            params, update, jax.random.fold_in(jax.random.key(3), index)
        )

    nearest = stochastic = params
    for index in range(200):
        nearest = optax.apply_updates(nearest, update)
        stochastic = step(stochastic, index)
    assert float(nearest["kernel"].mean()) == 1.0
    assert stochastic["kernel"].dtype == jnp.bfloat16
    mean = float(stochastic["kernel"].astype(jnp.float32).mean())
    assert mean == pytest.approx(1.02, abs=5 * 0.008 * np.sqrt(200 / 4096) / 2)


def test_other_types_and_missing_leaves_are_treated_as_optax_does():
    params = {"a": jnp.ones(3), "b": None, "c": jnp.ones(2, jnp.bfloat16), "d": jnp.ones((), "f2")}
    updates = {"a": jnp.full(3, 0.1), "b": None, "c": None, "d": jnp.float16(0.5)}
    new = lro.apply_updates_stochastic(params, updates, jax.random.key(0))
    assert new["b"] is None
    np.testing.assert_array_equal(new["a"], params["a"] + updates["a"])
    np.testing.assert_array_equal(new["c"], params["c"])
    assert (new["d"].dtype, float(new["d"])) == (jnp.float16, 1.5)


def test_every_leaf_draws_its_own_bits():
    x = jnp.full(1000, 1.003, jnp.bfloat16)
    step = jnp.full(1000, 0.003, jnp.bfloat16)
    new = lro.apply_updates_stochastic([x, x], [step, step], jax.random.key(0))
    assert (bits(new[0]) != bits(new[1])).any()


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_a_sharded_array_is_rounded_like_a_whole_one_without_communication(axis_type):
    x = jax.random.normal(jax.random.key(0), (16, 24))
    expected = jax.jit(lro.stochastic_round)(x, jax.random.key(1))
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(axis_type,) * 2)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data", "fsdp")))
        compiled = jax.jit(lro.stochastic_round).lower(sharded, jax.random.key(1)).compile()
        rounded = compiled(sharded, jax.random.key(1))
    assert rounded.sharding.spec == PartitionSpec("data", "fsdp")
    np.testing.assert_array_equal(bits(rounded), bits(expected))
    text = compiled.as_text()
    assert not any(name in text for name in ("all-gather", "all-reduce", "collective-permute"))

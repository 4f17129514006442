"""Attention heads that are matrices of their own, in one kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from methods import compiled
from optax.contrib import MuonDimensionNumbers

import lowrank_optax as lro
from benchmarks.collectives import collectives

KERNEL = MuonDimensionNumbers(reduction_axis=0, output_axis=1)
STACKED = MuonDimensionNumbers(reduction_axis=1, output_axis=2)
METHODS = {
    "tandem": lambda **options: lro.tandem(0.1, 2, mu_dtype="int8", **options),
    "trion": lambda **options: lro.trion(0.1, 2, **options),
    "dct_adamw": lambda **options: lro.dct_adamw(0.1, 2, **options),
    "muon": lambda **options: lro.muon(0.1, **options),
}


def two_steps(tx, grads):
    """The second step, and the bytes of the state."""
    tx = compiled(tx)
    state = tx.init(grads)
    for _ in range(2):
        steps, state = tx.update(grads, state, grads)
    return steps, sum(leaf.nbytes for leaf in jax.tree.leaves(state))


@pytest.mark.product(every=9)
@pytest.mark.parametrize("side", ["in", "out"])
@pytest.mark.parametrize("method", METHODS)
def test_heads_are_stepped_as_if_each_were_a_leaf(method, side):
    axis = {"in": 0, "out": 1}[side]
    kernel = draw((12, 5) if side == "in" else (5, 12))
    tx = METHODS[method](dimension_numbers=lro.per_head({"w": 4}, side=side))
    got, size = two_steps(tx, {"w": kernel})
    leaves = dict(enumerate(np.split(np.asarray(kernel), 3, axis)))
    apart = METHODS[method](dimension_numbers=KERNEL)
    expected, expected_size = two_steps(apart, jax.tree.map(jnp.asarray, leaves))
    expected = np.concatenate([expected[i] for i in range(3)], axis)
    np.testing.assert_allclose(got["w"], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert size == expected_size


@settings(max_examples=4)
@given(
    layers=st.integers(1, 3),
    heads=st.integers(1, 4),
    head_dim=st.integers(2, 6),
    other=st.integers(2, 9),
    side=st.sampled_from(["in", "out"]),
)
def test_of_stacked_layers_as_well(layers, heads, head_dim, other, side):
    """And each head is at its place in the view, which is undone."""
    shape = {"in": (layers, heads * head_dim, other), "out": (layers, other, heads * head_dim)}
    kernel = draw(shape[side])
    numbers = lro.per_head({"w": head_dim}, {"w": STACKED}, side=side)
    (spec,) = lro.matrix_specs({"w": kernel}, dimension_numbers=numbers)
    assert spec.batch == (layers, heads)
    assert {spec.n, spec.m} == {head_dim, other}
    assert {spec.fan_in: "in", spec.fan_out: "out"}[head_dim] == side or head_dim == other
    matrix = spec.to_matrix(kernel)
    own = np.split(np.asarray(kernel), heads, {"in": 1, "out": 2}[side])
    for i, head in enumerate(own):
        is_turned = spec.side == "out"
        np.testing.assert_array_equal(matrix[:, i], head.swapaxes(1, 2) if is_turned else head)
    np.testing.assert_array_equal(spec.from_matrix(matrix), kernel)


def test_query_key_value_in_one_and_the_output_projection():
    params = {"qkv": draw((8, 24)), "o_proj": draw((12, 8), 1), "gate": draw((8, 6), 2)}
    numbers = lro.per_head({"o_proj": 4}, lro.per_head({"qkv": 4}), side="in")
    views = [spec.view for spec in lro.matrix_specs(params, dimension_numbers=numbers)]
    assert views == [(6, 8), (3, 4, 8), (6, 4, 8)]
    step, _ = two_steps(lro.muon(1.0, shape_scale="none", dimension_numbers=numbers), params)
    for name, axis in (("qkv", 1), ("o_proj", 0)):
        for head in np.split(np.asarray(step[name]), params[name].shape[axis] // 4, axis):
            singular = np.linalg.svd(head, compute_uv=False)
            assert singular.min() > 0.3
            assert singular.max() < 1.3


PLACES = {
    "whole heads": P(None, "d"),
    "parts of heads": P(None, "e"),
    "the other side": P("d", None),
}


@pytest.mark.product(every=9)
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=lambda kind: kind.name)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("method", ["tandem", "dct_adamw"])
def test_on_a_mesh_steps_are_those_of_one_device(method, place, kind):
    mesh = jax.make_mesh((2, 4), ("d", "e"), axis_types=(kind, kind))
    sharding = NamedSharding(mesh, PLACES[place])
    # Two heads: over two devices one each, over four halves.
    kernel, numbers = draw((6, 8)), lro.per_head({"w": 4})
    tx = METHODS[method](dimension_numbers=numbers)
    params = {"w": kernel}
    expected, _ = two_steps(tx, params)
    there = jax.device_put(params, {"w": sharding})
    places = lro.state_shardings(tx, there, {"w": sharding})
    state = jax.jit(tx.init, out_shardings=places)(there)
    update = jax.jit(tx.update, out_shardings=({"w": sharding}, places))
    for _ in range(2):
        got, state = update(there, state, there)
    np.testing.assert_allclose(got["w"], expected["w"], rtol=0, atol=2e-5)


@pytest.mark.product(every=9)
@pytest.mark.parametrize(
    ("kind", "told", "heads"),
    [
        (AxisType.Explicit, False, 8),
        (AxisType.Auto, False, 8),  # as many as devices: each holds whole ones, whatever is split
        (AxisType.Auto, True, 4),  # fewer: `with_shardings` says where they are
    ],
    ids=["explicit", "auto", "told"],
)
@pytest.mark.parametrize("method", ["tandem", "trion"])
def test_heads_that_are_split_in_whole_ones_are_stepped_without_sending_anything(
    method, kind, told, heads
):
    mesh = jax.make_mesh((2, 4), ("d", "e"), axis_types=(kind, kind))
    sharding = NamedSharding(mesh, P(None, ("d", "e") if heads == 8 else "e"))
    kernel = jax.ShapeDtypeStruct((6, 4 * heads), jnp.float32, sharding=sharding)
    tx = METHODS[method](dimension_numbers=lro.per_head({"w": 4}))
    if told:
        tx = lro.with_shardings(tx, {"w": sharding})
    state = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        jax.eval_shape(tx.init, {"w": kernel}),
        lro.state_shardings(tx, {"w": kernel}, {"w": sharding}),
    )
    compiled = jax.jit(tx.update).lower({"w": kernel}, state, {"w": kernel}).compile()
    assert collectives(compiled.as_text()) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lro.per_head({"w": 4}, side="up"), "side='up' is unknown; use 'in' or 'out'"),
        (lambda: lro.per_head({"w": 0}), "head_dim=0 of 'w' must be at least 1"),
        (lambda: lro.per_head({"w": 5}), r"axis 1 of w of shape \(6, 8\) is not a multiple of"),
        (lambda: lro.per_head({"v": 4}), "'v' matches no matrix; the paths are b, w"),
        (lambda: lro.per_head({"b": 4}), "'b' matches b, which is no matrix: .* second argument"),
        (lambda: lro.per_head({"(": 4}), r"head_dim '\(' is not a regular expression"),
        (lambda: lro.per_head({"w": 4, ".": 2}), "w has heads already; name it once"),
        (
            lambda: lro.per_head({"w": 4}, {"w": KERNEL._replace(output_axis=(1, 2)), "b": None}),
            "several out axes already; make the one of the heads a batch axis",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_parameter(make, message):
    shape = (6, 4, 2) if "several" in message else (6, 8)
    params = {"w": jnp.ones(shape), "b": jnp.ones(8)}
    with pytest.raises(ValueError, match=message):
        lro.tandem(0.1, dimension_numbers=make()).init(params)


def test_what_else_is_no_matrix_and_why_stays_as_it_is():
    params = {"w": jnp.ones((6, 8)), "embed": jnp.ones((6, 8)), "stack": jnp.ones((2, 6, 8))}
    plain = str(lro.matrix_specs(params)).splitlines()
    heads = str(lro.matrix_specs(params, dimension_numbers=lro.per_head({"w": 4}))).splitlines()
    others = [line.split() for line in plain if "embed" in line or "stack" in line]
    assert len(others) == 2
    assert [line.split() for line in heads if "embed" in line or "stack" in line] == others


def test_a_state_of_heads_is_split_by_zero_and_gives_the_same_steps():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    numbers, params = lro.per_head({"w": 4}), {"w": draw((6, 8))}
    expected, _ = two_steps(lro.trion(0.1, 2, dimension_numbers=numbers), params)
    tx = lro.trion(0.1, 2, dimension_numbers=numbers, zero_axis="data")
    with jax.set_mesh(mesh):
        there = jax.device_put(params, NamedSharding(mesh, P()))
        places = lro.state_shardings(tx, there, {"w": NamedSharding(mesh, P())})
        state, update = jax.jit(tx.init, out_shardings=places)(there), jax.jit(tx.update)
        for _ in range(2):
            got, state = update(there, state, there)
    np.testing.assert_allclose(got["w"], expected["w"], rtol=0, atol=2e-5)
    momentum = max(jax.tree.leaves(state), key=lambda x: x.size)
    assert momentum.sharding.shard_shape(momentum.shape) != momentum.shape


def test_the_side_that_is_not_split_is_found_for_heads():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    params, numbers = {"w": jnp.ones((4, 16))}, lro.per_head({"w": 8})
    # Of heads (4, 8) "in" is the smaller side; a split of the heads is one of no side.
    for split, expected in ((P("d", None), "out"), (P(None, "d"), "in")):
        places = {"w": NamedSharding(mesh, split)}
        assert lro.unsharded_sides(params, places, dimension_numbers=numbers)["w"] == expected


@pytest.mark.slow
def test_a_kernel_that_is_none_has_no_heads():
    params = {"w": None, "v": draw((6, 8))}
    tx = lro.tandem(0.1, dimension_numbers=lro.per_head({"w": 4}))
    got, _ = tx.update(params, tx.init(params), params)
    assert got["w"] is None
    assert got["v"].shape == (6, 8)

"""Collectives are read correctly from what this very version of JAX compiles."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from layouts import mesh_of

from benchmarks.collectives import Collective, collectives, total_bytes

MESHES = [
    ({"x": 8}, ("x",)),
    ({"a": 4, "b": 2}, ("a", "b")),
    ({"a": 4, "b": 2}, ("b", "a")),
    ({"a": 4, "b": 2}, ("a",)),
    ({"a": 4, "b": 2}, ("b",)),
    ({"a": 2, "b": 4}, ("b",)),
    ({"a": 2, "b": 2, "c": 2}, ("a", "c")),
]
SHAPE = (64, 32)
BYTES = 4 * 64 * 32


def found(function, *arguments):
    return collectives(jax.jit(function).lower(*arguments).compile().as_text())


def mapped(function, mesh, in_specs, out_specs):
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )


@pytest.mark.parametrize(("sizes", "axes"), MESHES)
def test_resharding_over_some_axes_is_one_collective_among_as_many_devices(sizes, axes):
    mesh = mesh_of(sizes)
    group = math.prod(sizes[axis] for axis in axes)
    x = jax.ShapeDtypeStruct(SHAPE, jnp.float32, sharding=NamedSharding(mesh, P(axes)))
    to = lambda spec: lambda x: lax.with_sharding_constraint(2 * x, NamedSharding(mesh, spec))

    (gather,) = found(to(P()), x)
    assert gather == Collective("all-gather", (SHAPE,), BYTES, group)

    (exchange,) = found(to(P(None, axes)), x)
    assert (exchange.kind, exchange.bytes) == ("all-to-all", BYTES // group)
    assert exchange.group == group

    whole = lambda x: lax.with_sharding_constraint(x.sum(0), NamedSharding(mesh, P()))
    assert found(whole, x) == [Collective("all-reduce", ((32,),), 4 * 32, group)]


@pytest.mark.parametrize(("sizes", "axes"), MESHES)
def test_collectives_written_by_hand_are_found_with_their_group(sizes, axes):
    mesh = mesh_of(sizes)
    group = math.prod(sizes[axis] for axis in axes)
    x = jnp.ones(SHAPE)
    scatter = mapped(lambda x: lax.psum_scatter(x, axes, tiled=True), mesh, P(), P(axes))
    part = (64 // group, 32)
    assert found(scatter, x) == [Collective("reduce-scatter", (part,), BYTES // group, group)]


def test_a_loop_counts_once_and_says_so():
    mesh = mesh_of({"x": 8})
    body = lambda i, x: jnp.sin(lax.psum(x, "x"))
    loop = mapped(lambda x: lax.fori_loop(0, 3, body, x), mesh, P("x"), P("x"))
    (each,) = found(loop, jnp.ones(SHAPE))
    assert each == Collective("all-reduce", ((8, 32),), BYTES // 8, 8, in_loop=True)


def test_branches_are_apart_even_deep_inside_and_the_rest_is_the_total():
    mesh = mesh_of({"x": 8})
    body = lambda i, x: jnp.sin(lax.psum(x, "x"))

    def function(flag, x):
        y = lax.cond(flag > 0, lambda x: lax.fori_loop(0, 3, body, x), lambda x: x, x)
        return y + lax.pmax(x.sum(), "x")

    both = found(mapped(function, mesh, (P(), P("x")), P("x")), jnp.int32(0), jnp.ones(SHAPE))
    deep, top = sorted(both, key=lambda each: -each.bytes)
    assert (deep.in_branch, deep.in_loop) == (True, True)
    assert top == Collective("all-reduce", ((),), 4, 8)
    assert total_bytes(both) == 4
    assert total_bytes(both, "all-gather") == 0


def test_a_branch_of_several_holds_what_it_alone_sends():
    mesh = mesh_of({"x": 8})
    branches = [lambda x: x, lambda x: lax.psum(x, "x"), lambda x: lax.pmax(x, "x")]
    function = mapped(lambda i, x: lax.switch(i, branches, x), mesh, (P(), P("x")), P("x"))
    both = found(function, jnp.int32(0), jnp.ones(SHAPE))
    assert [each.in_branch for each in both] == [True, True]


def test_an_asynchronous_start_counts_its_result_only():
    gather = "%s = (f32[1,8]{1,0}, f32[8,8]{1,0}) all-gather-start(%x), replica_groups=[1,8]<=[8]"
    assert collectives(gather) == [Collective("all-gather", ((8, 8),), 256, 8)]
    reduce = "%s = (f32[4]{0}, bf16[2]{0}) all-reduce-start(%x, %y), replica_groups={{0,1}}"
    assert collectives(reduce) == [Collective("all-reduce", ((4,), (2,)), 20, 2)]

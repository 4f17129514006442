"""Fused attention gives what the chunks give, on any mesh, and is asked of cuDNN where it can."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import models.attention
from models.attention import causal_attention, chunked_attention
from models.fused_attention import fused_attention, is_fusible

SEGMENTS = jnp.repeat(jnp.array([[1, 2, 3, 3], [4, 4, 4, 5]]), 32, axis=1)


def queries_keys_values():
    keys = jax.random.split(jax.random.key(0), 3)
    query = jax.random.normal(keys[0], (2, 128, 8, 8))
    return query, *(jax.random.normal(key, (2, 128, 2, 8)) for key in keys[1:])


def value_and_gradients(attention, *more):
    def loss(query, key, value):
        return jnp.square(attention(query, key, value, *more)).mean()

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))


@pytest.mark.product(every=2)
@pytest.mark.parametrize(
    ("segments", "sizes"),
    [
        (None, {"data": 2, "fsdp": 1, "tensor": 2}),
        (SEGMENTS, {}),
        (SEGMENTS, {"tensor": 4}),  # more devices than heads of keys
        (SEGMENTS, {"data": 4}),  # and than rows
    ],
    ids=["split", "one device", "few heads", "few rows"],
)
def test_it_is_the_attention_of_the_chunks(segments, sizes):
    arrays = queries_keys_values()
    expected = value_and_gradients(chunked_attention, segments)(*arrays)
    fused = value_and_gradients(fused_attention, segments, "xla")
    if sizes:
        axis_types = (AxisType.Auto,) * len(sizes)
        mesh = jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=axis_types)
        replicated = NamedSharding(mesh, PartitionSpec())
        with jax.set_mesh(mesh):
            found = fused(*jax.device_put(arrays, replicated))
    else:
        found = fused(*arrays)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def device(kind="NVIDIA H100 80GB HBM3", capability="9.0"):
    return types.SimpleNamespace(device_kind=kind, compute_capability=capability)


@pytest.mark.parametrize(
    ("where", "shape", "dtype", "expected"),
    [
        (device(), (2, 256, 4, 64), "bfloat16", True),
        (device("NVIDIA A100-SXM4-40GB", "8.0"), (2, 64, 4, 128), "float16", True),
        (device("Tesla T4", "7.5"), (2, 256, 4, 64), "bfloat16", False),
        (device("NVIDIA GeForce RTX 2080", "7.5"), (2, 256, 4, 64), "float16", False),
        (device("AMD Instinct MI300X", "gfx942"), (2, 256, 4, 64), "bfloat16", False),
        (types.SimpleNamespace(device_kind="TPU v5 lite"), (2, 256, 4, 64), "bfloat16", False),
        (device(), (2, 256, 4, 64), "float32", False),
        (device(), (2, 256, 4, 256), "bfloat16", False),
        (device(), (2, 256, 4, 20), "bfloat16", False),
        (device(), (2, 32, 4, 64), "bfloat16", False),
        (device(), (2, 255, 4, 64), "bfloat16", False),
    ],
)
def test_cudnn_is_asked_for_what_it_has(where, shape, dtype, expected):
    assert is_fusible(jax.ShapeDtypeStruct(shape, dtype), where) == expected


def test_the_models_attention_takes_it_there_and_not_here(monkeypatch):
    asked = []

    def record(query, key, value, segments, implementation):
        asked.append((segments, implementation))
        return query

    monkeypatch.setattr(models.attention, "fused_attention", record)
    half = [x.astype(jnp.bfloat16) for x in queries_keys_values()]
    # A function of its own each time: JAX knows by the function what it has traced.
    attend = lambda: jax.eval_shape(lambda *x: causal_attention(*x), *half, SEGMENTS)
    attend()
    assert asked == []
    monkeypatch.setattr(jax, "devices", lambda: [device()])
    attend()
    ((segments, implementation),) = asked
    assert segments.shape == SEGMENTS.shape
    assert implementation == "cudnn"

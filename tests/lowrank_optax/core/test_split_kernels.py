"""Fused kernels whose parts are matrices of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from methods import compiled

import lowrank_optax as lro

SIZES = {"qkv/kernel": (8, 4, 4), "gate_up": (6, 6)}
FUSED = {"qkv": {"kernel": draw((8, 16))}, "gate_up": draw((8, 12), 1), "other": draw((8, 8), 2)}
APART = {
    "qkv": {"kernel": np.split(FUSED["qkv"]["kernel"], (8, 12), axis=1)},
    "gate_up": np.split(FUSED["gate_up"], 2, axis=1),
    "other": FUSED["other"],
}
OPTIMIZERS = {
    "trion": lro.trion(0.1, 2),
    "tandem": lro.tandem(0.1, 2),
    "optax.contrib.muon": optax.contrib.muon(0.1),
}


@pytest.mark.product(every=3)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_part_is_stepped_as_a_matrix_of_its_own(name):
    apart, fused = map(compiled, (OPTIMIZERS[name], lro.split_kernels(OPTIMIZERS[name], SIZES)))
    state, other = fused.init(FUSED), apart.init(APART)
    for _ in range(2):
        got, state = fused.update(FUSED, state, FUSED)
        expected, other = apart.update(APART, other, APART)
    np.testing.assert_array_equal(
        got["qkv"]["kernel"], np.concatenate(expected["qkv"]["kernel"], axis=1)
    )
    np.testing.assert_array_equal(got["gate_up"], np.concatenate(expected["gate_up"], axis=1))
    np.testing.assert_array_equal(got["other"], expected["other"])


def test_equal_sizes_make_every_head_a_matrix():
    heads = lro.split_kernels(lro.muon(1.0, shape_scale="none"), {"w": (4, 4)})
    params = {"w": draw((4, 8))}
    step, _ = heads.update(params, heads.init(params))
    for head in np.split(np.asarray(step["w"]), 2, axis=1):
        singular = np.linalg.svd(head, compute_uv=False)
        assert singular.min() > 0.3
        assert singular.max() < 1.3


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"qkv": (8, 4)},
            r"sizes \(8, 4\) do not add up to axis -1 of qkv/kernel of shape \(8, 16\)",
        ),
        (
            {"qvk": (8, 8)},
            "split_sizes pattern 'qvk' matches no parameter; the paths are gate_up, other, qkv",
        ),
        (
            {"qkv": (8, 8), "kernel": (8, 8)},
            "qkv/kernel is matched by two split_sizes patterns, 'qkv' and 'kernel'",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_the_parameter(sizes, message):
    with pytest.raises(ValueError, match=message):
        lro.split_kernels(lro.tandem(0.1), sizes).init(FUSED)


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_a_kernel_without_a_gradient_is_not_stepped_and_the_others_are(masked):
    tx = lro.split_kernels(lro.muon(0.1), {"qkv": (8, 4, 4)})
    if masked:
        mask = {"qkv": {"kernel": False}, "gate_up": True, "other": True}
        tx, gradients = optax.masked(tx, mask), FUSED
    else:
        gradients = FUSED | {"qkv": {"kernel": None}}
    whole = lro.muon(0.1)
    got, _ = tx.update(gradients, tx.init(FUSED), FUSED)
    expected, _ = whole.update(FUSED, whole.init(FUSED), FUSED)
    np.testing.assert_allclose(got["other"], expected["other"], rtol=1e-6)
    assert got["qkv"]["kernel"] is gradients["qkv"]["kernel"]


def test_a_kernel_that_is_none_has_no_parts():
    params = FUSED | {"qkv": {"kernel": None}}
    tx = lro.split_kernels(lro.muon(0.1), {"qkv": (8, 4, 4)})
    got, _ = tx.update(params, tx.init(params), params)
    assert got["qkv"]["kernel"] is None


class Attention(nnx.Module):
    def __init__(self, rngs):
        self.qkv = nnx.Linear(8, 16, rngs=rngs)

    def __call__(self, x):
        return self.qkv(x)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tandem", "optax.contrib.muon"])
def test_two_steps_of_an_nnx_optimizer_with_split_kernels_and_biases(name):
    model = Attention(nnx.Rngs(0))
    optimizer = nnx.Optimizer(
        model, lro.split_kernels(OPTIMIZERS[name], {"qkv": (8, 4, 4)}), wrt=nnx.Param
    )
    loss = lambda model: (model(jnp.ones((2, 8))) ** 2).mean()
    first = loss(model)
    for _ in range(2):
        optimizer.update(model, nnx.grad(loss)(model))
    assert loss(model) < first


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_parts_that_the_devices_do_not_divide_are_gathered(kind):
    tx = lro.split_kernels(lro.trion(0.1, 2), {"qkv": (20, 6, 6)})
    mesh = jax.make_mesh((8,), ("x",), axis_types=(kind,))
    placed = {"qkv": NamedSharding(mesh, PartitionSpec(None, "x"))}
    whole = {"qkv": draw((16, 32))}
    with jax.set_mesh(mesh):
        params = jax.device_put(whole, placed)
        lro.memory_report(tx, params)
        lro.state_shardings(tx, params, placed)
        state = jax.jit(tx.init)(params)
        updates, after = jax.jit(tx.update)(params, state, params)
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
    if kind == AxisType.Explicit:
        assert updates["qkv"].sharding.spec == placed["qkv"].spec
    expected, _ = tx.update(whole, tx.init(whole), whole)
    np.testing.assert_allclose(updates["qkv"], expected["qkv"], atol=1e-5)

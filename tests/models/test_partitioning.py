"""Partitioning: which side of which parameter an axis splits, and what a step then gathers."""

import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from models.configs import LlamaConfig
from models.llama import Llama
from models.partitioning import gather_where_read, partition_specs

CONFIG = LlamaConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=48,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    qkv_bias=True,
)


def parameters(config=CONFIG):
    model = nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def flat_specs(mesh, params=None):
    specs = partition_specs(parameters() if params is None else params, mesh)
    leaves = jax.tree_util.tree_leaves_with_path(
        specs, is_leaf=lambda x: isinstance(x, PartitionSpec)
    )
    return {jax.tree_util.keystr(path, simple=True, separator="/"): spec for path, spec in leaves}


def test_each_axis_splits_the_side_that_is_meant_for_it():
    specs = flat_specs(AbstractMesh((2, 2, 2), ("data", "fsdp", "tensor")))
    attention, mlp = "layers/attention", "layers/mlp"
    both = ("tensor", "fsdp")
    assert specs == {
        "embed_tokens/embedding": PartitionSpec("tensor", "fsdp"),
        f"{attention}/q_proj/kernel": PartitionSpec(None, None, both),  # 16 x 16: out
        f"{attention}/k_proj/kernel": PartitionSpec(None, "fsdp", "tensor"),  # 16 x 8: in
        f"{attention}/v_proj/kernel": PartitionSpec(None, "fsdp", "tensor"),
        f"{attention}/o_proj/kernel": PartitionSpec(None, "tensor", "fsdp"),  # 16 x 16: out
        f"{attention}/q_proj/bias": PartitionSpec(None, "tensor"),
        f"{attention}/k_proj/bias": PartitionSpec(None, "tensor"),
        f"{attention}/v_proj/bias": PartitionSpec(None, "tensor"),
        f"{mlp}/gate_proj/kernel": PartitionSpec(None, None, both),  # 16 x 48: out
        f"{mlp}/up_proj/kernel": PartitionSpec(None, None, both),
        f"{mlp}/down_proj/kernel": PartitionSpec(None, both, None),  # 48 x 16: in
        "layers/input_norm/scale": PartitionSpec(None, None),
        "layers/post_attention_norm/scale": PartitionSpec(None, None),
        "norm/scale": PartitionSpec(None),
        "lm_head/kernel": PartitionSpec("fsdp", "tensor"),
    }


@pytest.mark.parametrize("axes", [("data",), ("data", "fsdp"), ("batch", "tensor")])
def test_an_axis_that_the_mesh_does_not_have_splits_nothing(axes):
    entries = {
        name
        for spec in flat_specs(AbstractMesh((2,) * len(axes), axes)).values()
        for name in jax.tree.leaves(tuple(spec))
    }
    assert entries == set(axes) - {"data", "batch"}


def test_an_axis_that_does_not_divide_goes_to_the_other_side_or_nowhere():
    kernels = {
        "up_proj": {"kernel": jax.ShapeDtypeStruct((2, 16, 54), "float32")},
        "down_proj": {"kernel": jax.ShapeDtypeStruct((2, 54, 16), "float32")},
        "k_proj": {"kernel": jax.ShapeDtypeStruct((2, 18, 6), "float32")},
    }
    assert flat_specs(AbstractMesh((4,), ("fsdp",)), kernels) == {
        "up_proj/kernel": PartitionSpec(None, "fsdp", None),
        "down_proj/kernel": PartitionSpec(None, None, "fsdp"),
        "k_proj/kernel": PartitionSpec(None, None, None),
    }
    # 54 = 2 * 27: of tensor and fsdp it has room for one.
    assert flat_specs(AbstractMesh((2, 2), ("fsdp", "tensor")), kernels) == {
        "up_proj/kernel": PartitionSpec(None, "fsdp", "tensor"),
        "down_proj/kernel": PartitionSpec(None, "tensor", "fsdp"),
        "k_proj/kernel": PartitionSpec(None, "fsdp", "tensor"),
    }


def test_a_parameter_without_a_rule_is_refused_by_its_path():
    params = {"layers": {"router": {"kernel": jax.ShapeDtypeStruct((2, 4, 4), "float32")}}}
    with pytest.raises(ValueError, match=r"covers the parameter layers/router/kernel \(2, 4, 4\)"):
        partition_specs(params, AbstractMesh((2,), ("fsdp",)))


def compiled_gradient(sizes, *, gather):
    """The compiled gradient of a mean of the logits, and its mesh; batch 8, time 6."""
    mesh = jax.make_mesh(
        tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes)
    )
    model = nnx.eval_shape(lambda: Llama(CONFIG, rngs=nnx.Rngs(0)))
    if gather:
        gather_where_read(model, mesh)
    graphdef, _ = nnx.split(model, nnx.Param)
    params = parameters()
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), partition_specs(params, mesh))
    batch_axes = tuple(axis for axis in sizes if axis != "tensor")
    tokens = jax.ShapeDtypeStruct(
        (8, 6), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec(batch_axes))
    )
    params = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        params,
        shardings,
    )

    def loss(params, tokens):
        return jnp.square(nnx.merge(graphdef, params)(tokens)).mean()

    with jax.set_mesh(mesh):
        return jax.jit(jax.grad(loss), out_shardings=shardings).lower(params, tokens).compile()


def collectives(compiled, kinds):
    """The result types of the collectives of these kinds, e.g. ["f32[1,16,48]"]."""
    pattern = rf"= (.*?) (?:{kinds})(?:-start)?\("
    return [
        array
        for line in re.findall(pattern, compiled.as_text())
        for array in re.findall(r"[a-z0-9]+\[[0-9,]*\]", line)
    ]


@pytest.mark.product(every=2)
@pytest.mark.parametrize("sizes", [{"fsdp": 8}, {"data": 4, "fsdp": 2}])
def test_fsdp_gathers_a_layer_s_parameters_and_never_activations(sizes):
    compiled = compiled_gradient(sizes, gather=True)
    gathered = set(collectives(compiled, "all-gather"))
    kernels = {"f32[1,16,16]", "f32[1,16,8]", "f32[1,16,48]", "f32[1,48,16]"}
    tables = {"f32[32,16]", "f32[16,32]"}
    assert kernels <= gathered <= kernels | tables
    assert collectives(compiled, "all-to-all|collective-permute") == []
    # Gradients are added up; what has the batch and time axes is not.
    assert not [
        array for array in collectives(compiled, "all-reduce") if re.search(r",6[,\]]", array)
    ]


def test_without_it_activations_are_gathered():
    gathered = collectives(compiled_gradient({"fsdp": 8}, gather=False), "all-gather")
    assert [array for array in gathered if array.startswith("f32[8,6")]

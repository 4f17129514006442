"""Hugging Face folders are read exactly and written back bit by bit."""

import dataclasses
import functools
import json
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from huggingface_folders import (
    DATA,
    FOLDERS,
    change_fields,
    change_tensors,
    forward,
    golden,
    parameters,
    plain_copy,
    random_model,
    tensors,
)
from jax.sharding import AxisType, NamedSharding

from models import huggingface
from models.configs import LlamaConfig
from models.partitioning import partition_specs
from models.rope_scaling import LinearRopeScaling, Llama3RopeScaling
from models.safetensors_folder import StoredTensor

DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}
CONFIG = LlamaConfig(32, 16, 24, num_layers=2, num_heads=4, num_kv_heads=2, max_position=64)
LLAMA3 = Llama3RopeScaling(8.0, 1.0, 4.0, 32)

loaded = functools.cache(lambda name: huggingface.load(DATA / name))


def cast(dtype, only=""):
    """Gives the tensors with ``only`` in their names another dtype."""

    def change(stored):
        return {
            name: tensor.astype(DTYPES[dtype]) if only in name else tensor
            for name, tensor in stored.items()
        }

    return change


def make_mesh(**axes):
    return jax.make_mesh(tuple(axes.values()), tuple(axes), (AxisType.Auto,) * len(axes))


def assert_same_tensors(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert found[name].tobytes() == tensor.tobytes(), name


@pytest.mark.parametrize("name", FOLDERS)
def test_logits_match_transformers(name):
    data = golden(name)
    logits = forward(loaded(name), data["tokens"])
    np.testing.assert_allclose(logits, data["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FOLDERS[1:])
def test_hidden_states_match_transformers(name):
    @jax.jit
    def hidden_states(tokens):
        model = loaded(name)
        x = model.embed_tokens(tokens)
        tables = model.rotary_tables(jnp.arange(x.shape[1]))
        structure, stacked = nnx.split(model.layers)
        first, second = (
            nnx.merge(structure, jax.tree.map(lambda leaf, i=layer: leaf[i], stacked))
            for layer in range(2)
        )
        after_first = first(x, *tables)
        return x, after_first, model.norm(second(after_first, *tables))

    data = golden(name)
    for found, expected in zip(hidden_states(data["tokens"]), data["hidden"], strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_several_files_and_the_older_config_make_the_same_model_as_one():
    one, several = loaded("tiny_llama"), loaded("tiny_llama_sharded")
    assert one.config == several.config
    assert parameters(one).keys() == parameters(several).keys()
    for path, leaf in parameters(one).items():
        np.testing.assert_array_equal(leaf, parameters(several)[path])


@pytest.mark.parametrize(
    ("name", "max_shard_size", "files"),
    [
        ("tiny_llama", 5_000_000_000, 1),
        ("tiny_llama", 100_000, 4),
        ("tiny_llama_sharded", 200_000, 2),
        ("tiny_qwen2", 1, 26),
    ],
)
def test_a_round_trip_is_bit_equal(tmp_path, name, max_shard_size, files):
    saved = tmp_path / "saved"
    huggingface.save(loaded(name), saved, max_shard_size=max_shard_size)
    assert_same_tensors(tensors(saved), tensors(DATA / name))
    names = [f"model-{i + 1:05d}-of-{files:05d}.safetensors" for i in range(files)]
    if files == 1:
        names = ["model.safetensors"]
    else:
        names.append("model.safetensors.index.json")
        index = json.loads((saved / names[-1]).read_text())
        assert index["weight_map"].keys() == tensors(DATA / name).keys()
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", *names]
    assert huggingface.load(saved).config == loaded(name).config


@pytest.mark.product(every=2)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_kept_bit_by_bit_unless_another_is_asked_for(tmp_path, dtype):
    folder = plain_copy("tiny_qwen2", tmp_path / "half")
    change_tensors(folder, cast(dtype))
    change_fields(folder, dtype=dtype)
    model = huggingface.load(folder)
    assert (model.config.dtype, model.config.param_dtype) == (dtype, dtype)
    assert {leaf.dtype for leaf in parameters(model).values()} == {jnp.dtype(dtype)}
    huggingface.save(model, tmp_path / "saved")
    assert_same_tensors(tensors(tmp_path / "saved"), tensors(folder))
    assert huggingface.load(tmp_path / "saved").config == model.config

    wide = huggingface.load(folder, dtype="float32")
    assert (wide.config.dtype, wide.config.param_dtype) == ("float32", "float32")
    for path, leaf in parameters(wide).items():
        np.testing.assert_array_equal(leaf, parameters(model)[path].astype(jnp.float32))
    masters = huggingface.load(folder, param_dtype=jnp.float32, remat=True)
    assert (masters.config.dtype, masters.config.param_dtype) == (dtype, "float32")
    assert masters.config.remat


def test_tensors_of_several_dtypes_each_keep_theirs(tmp_path):
    folder = plain_copy("tiny_llama", tmp_path / "mixed")
    change_tensors(folder, cast("bfloat16", only="proj"))
    model = huggingface.load(folder)
    dtypes = {path: leaf.dtype.name for path, leaf in parameters(model).items()}
    assert dtypes["layers/mlp/up_proj/kernel"] == "bfloat16"
    assert dtypes["layers/input_norm/scale"] == dtypes["embed_tokens/embedding"] == "float32"
    huggingface.save(model, tmp_path / "saved")
    assert_same_tensors(tensors(tmp_path / "saved"), tensors(folder))


def test_layers_of_two_dtypes_are_stacked_without_loss(tmp_path):
    folder = plain_copy("tiny_llama", tmp_path / "mixed")
    change_tensors(folder, cast("float16", only="layers.1.mlp"))
    kernel = parameters(huggingface.load(folder))["layers/mlp/up_proj/kernel"]
    stored = tensors(folder)
    assert kernel.dtype == jnp.float32
    for layer in range(2):
        tensor = stored[f"model.layers.{layer}.mlp.up_proj.weight"]
        np.testing.assert_array_equal(kernel[layer], tensor.T.astype(np.float32))


@pytest.mark.slow
def test_float64_round_trip_needs_64_bit_arithmetic(tmp_path):
    with jax.enable_x64(True):
        config = dataclasses.replace(CONFIG, dtype="float64", param_dtype="float64")
        model = random_model(config)
        huggingface.save(model, tmp_path)
        assert huggingface.load(tmp_path).config == config
        for path, leaf in parameters(huggingface.load(tmp_path)).items():
            np.testing.assert_array_equal(leaf, parameters(model)[path])
    with pytest.raises(ValueError, match=r"would be read as float64.* dtype='float32'"):
        huggingface.load(tmp_path)
    assert huggingface.load(tmp_path, dtype="float32").config.dtype == "float32"


@pytest.mark.product(every=2)
@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": LLAMA3},
        {"rope_scaling": LinearRopeScaling(4.0), "qkv_bias": True},
        {"head_dim": 6, "rope_theta": 5e5, "norm_eps": 1e-5},
        {"num_kv_heads": 4, "tie_embeddings": True},
    ],
    ids=str,
)
def test_every_option_survives_a_round_trip(tmp_path, changes):
    config = dataclasses.replace(CONFIG, **changes)
    huggingface.save(random_model(config), tmp_path, eos_token_id=7)
    assert huggingface.load(tmp_path).config == config
    fields = json.loads((tmp_path / "config.json").read_text())
    model_type = "qwen2" if config.qkv_bias else "llama"
    assert (fields["model_type"], fields["eos_token_id"]) == (model_type, 7)
    # The older layout says the same to those who look for it.
    for name in ("rope_parameters", "dtype"):
        del fields[name]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert huggingface.load(tmp_path).config == config


def test_llama3_scaling_is_read_from_either_layout(tmp_path):
    scaling = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    new, old = (plain_copy("tiny_llama", tmp_path / layout) for layout in ("new", "old"))
    rope = {"rope_theta": 5e5, "rope_type": "llama3", **scaling}
    change_fields(new, rope_parameters=rope)
    change_fields(
        old, rope_parameters=None, rope_theta=5e5, rope_scaling={"type": "llama3", **scaling}
    )
    for folder in (new, old):
        config = huggingface.load(folder).config
        assert (config.rope_theta, config.rope_scaling) == (5e5, LLAMA3)


def test_what_early_llamas_leave_out_has_their_values(tmp_path):
    folder = plain_copy("tiny_llama_sharded", tmp_path / "early")
    change_fields(folder, rope_theta=None, head_dim=None, tie_word_embeddings=None)
    assert huggingface.load(folder).config == loaded("tiny_llama_sharded").config


def test_stored_rotary_frequencies_are_ignored(tmp_path):
    folder = plain_copy("tiny_llama", tmp_path / "early")
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)}
    change_tensors(folder, lambda stored: stored | extra)
    assert huggingface.load(folder).config == loaded("tiny_llama").config


def test_a_tied_head_may_be_stored_if_it_is_the_embedding(tmp_path):
    folder = plain_copy("tiny_qwen2", tmp_path / "tied")
    embedding = tensors(folder)["model.embed_tokens.weight"]
    change_tensors(folder, lambda stored: stored | {"lm_head.weight": embedding})
    assert parameters(huggingface.load(folder)).keys() == parameters(loaded("tiny_qwen2")).keys()
    change_tensors(folder, lambda stored: stored | {"lm_head.weight": embedding + 1})
    with pytest.raises(
        ValueError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"
    ):
        huggingface.load(folder)


@pytest.mark.product(every=2)
@pytest.mark.parametrize("axes", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_a_model_on_eight_devices_is_the_same_model(tmp_path, axes):
    mesh, data = make_mesh(**axes), golden("tiny_qwen2")
    model = huggingface.load(DATA / "tiny_qwen2", mesh=mesh)
    specs = partition_specs(nnx.to_pure_dict(nnx.state(model, nnx.Param)), mesh)
    flat = parameters(model)
    for path, leaf in flat.items():
        spec = functools.reduce(lambda tree, part: tree[part], path.split("/"), specs)
        assert leaf.sharding == NamedSharding(mesh, spec), path
        np.testing.assert_array_equal(leaf, parameters(loaded("tiny_qwen2"))[path])
    split = flat["layers/mlp/up_proj/kernel"].addressable_shards[0].data.size
    assert split * axes.get("fsdp", 1) * axes.get("tensor", 1) == 2 * 64 * 96
    logits = forward(model, data["tokens"])
    np.testing.assert_allclose(logits, data["logits"], rtol=0, atol=1e-4)
    huggingface.save(model, tmp_path)
    assert_same_tensors(tensors(tmp_path), tensors(DATA / "tiny_qwen2"))


def test_of_a_sharded_array_every_part_is_read_once(monkeypatch):
    parts = []
    read = StoredTensor.read

    def counted(self, *slices):
        part = read(self, *slices)
        parts.append(part.size)
        return part

    monkeypatch.setattr(StoredTensor, "read", counted)
    model = huggingface.load(DATA / "tiny_llama", mesh=make_mesh(data=2, fsdp=4))
    assert sum(parts) == sum(leaf.size for leaf in parameters(model).values())
    assert max(parts) == 128 * 64 // 4, "no tensor of a split parameter is read whole"


@pytest.mark.slow
def test_loading_holds_one_parameter_beside_the_model(tmp_path):
    config = dataclasses.replace(CONFIG, hidden_size=256, intermediate_size=512, num_layers=12)
    huggingface.save(random_model(config), tmp_path)
    tracemalloc.start()
    model = huggingface.load(tmp_path)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    sizes = [leaf.nbytes for leaf in parameters(model).values()]
    assert max(sizes) < sum(sizes) / 3
    # NumPy's memory is traced: of the model, JAX takes some over, and holds the rest itself.
    assert peak - kept < 1.5 * max(sizes)

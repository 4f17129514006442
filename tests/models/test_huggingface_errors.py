"""Folders that cannot be read exactly are refused with the file, the finding and the remedy."""

import json

import numpy as np
import pytest
from huggingface_folders import DATA, change_fields, change_tensors, plain_copy, random_model

from models import huggingface
from models.configs import LlamaConfig

UP = "model.layers.1.mlp.up_proj.weight"
SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path):
    return plain_copy("tiny_llama", tmp_path / "model")


@pytest.fixture
def sharded(tmp_path):
    return plain_copy("tiny_llama_sharded", tmp_path / "model")


def refused(folder, message):
    with pytest.raises(ValueError, match=message):
        huggingface.load(folder)


def test_a_folder_that_is_not_there(tmp_path):
    refused(tmp_path / "absent", r"no folder .*absent; a model is read from a local folder: down")


def test_no_config(folder):
    (folder / "config.json").unlink()
    refused(folder, r"model has no config\.json; is it the folder of a model\?")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", r"config\.json is not JSON \(.*\); download it again"), ("[]", "holds a list, not an")],
)
def test_a_config_that_is_not_an_object(folder, text, message):
    (folder / "config.json").write_text(text)
    refused(folder, message)


@pytest.mark.parametrize(
    "name",
    [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "rms_norm_eps",
        "max_position_embeddings",
    ],
)
def test_a_missing_field_is_named(folder, name):
    change_fields(folder, **{name: None})
    refused(folder, rf"config\.json: the field '{name}' is missing")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            r"\['GPT2LMHeadModel'\].* LlamaForCausalLM, Qwen2F",
        ),
        ({"architectures": None, "model_type": "mistral"}, "model_type='mistral' is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported, .* hidden_act='silu'"),
        ({"attention_bias": True}, "attention_bias=True is not supported.*output projection"),
        ({"mlp_bias": True}, "mlp_bias=True is not supported"),
        ({"use_sliding_window": True}, "use_sliding_window=True .* attention within a window"),
        ({"quantization_config": {"bits": 4}}, "quantization_config=.*quantised weights"),
        ({"hidden_size": "64"}, "hidden_size='64' is not an integer"),
        ({"vocab_size": True}, "vocab_size=True is not an integer"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings=1 is not true or false"),
        ({"num_key_value_heads": 3}, r"config\.json: num_heads=4 is not divisible by num_kv_heads"),
        ({"dtype": "int8"}, r"config\.json: dtype='int8' is not a floating dtype"),
        ({"rope_theta": 1e6}, "rope_theta=1000000.0 contradicts rope_parameters.*remove the wrong"),
        ({"rope_parameters": 5}, "rope_parameters=5 is not an object"),
        (
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn", "factor": 4.0}},
            "rope_type='yarn' is not supported; .* one of 'default', 'linear', 'llama3'",
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "llama3", "factor": 4.0}},
            "the field 'low_freq_factor' is missing",
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 0.5}},
            r"config\.json: rotary scaling factor=0\.5 must be at least 1",
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor=0.5 is not supported",
        ),
        (
            {"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "rope_type='dynamic' is not supported",
        ),
        (
            {"architectures": ["Qwen2ForCausalLM"], "rope_parameters": None},
            "the field 'rope_theta' is missing",
        ),
    ],
    ids=str,
)
def test_what_a_config_asks_for_in_vain_is_named(folder, fields, message):
    change_fields(folder, **fields)
    refused(folder, message)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickles_are_refused_by_name(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    refused(folder, rf"model holds its weights in {name} only, which is refused: a pickle.*save_pr")


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, r"has neither model\.safetensors nor .*index\.json; is its download complete")


@pytest.mark.parametrize("size", [0, 5, 1000, -10])
def test_a_truncated_file(folder, size):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    refused(folder, r"model\.safetensors is cut short or not a safetensors.*; download it again")


def test_a_missing_file_of_several(sharded):
    (sharded / SHARD).unlink()
    refused(sharded, rf"lacks 1 of the 2 files that .*index\.json names: {SHARD}; download them")


def test_an_index_that_does_not_fit_its_files(sharded):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.embed_tokens.weight"] = SHARD
    path.write_text(json.dumps(index))
    refused(sharded, rf"{SHARD} does not hold 'model\.embed_tokens\.weight', which .* says")
    path.write_text("{}")
    refused(sharded, r"index\.json has no readable 'weight_map' .*download it again")


def test_missing_tensors(folder):
    change_tensors(folder, lambda stored: {k: v for k, v in stored.items() if k != UP})
    refused(folder, rf"model lacks {UP}, of the model in config\.json")
    change_tensors(folder, lambda stored: {k: v for k, v in stored.items() if ".0." not in k})
    refused(folder, r"lacks model\.layers\.0\.input_layernorm\.weight, .* and 6 more, of the model")


def test_a_missing_head_hints_at_tying(folder):
    change_tensors(folder, lambda stored: {k: v for k, v in stored.items() if "lm_head" not in k})
    refused(folder, r"lacks lm_head\.weight, .*; should tie_word_embeddings be true in it\?")


def test_unexpected_tensors(folder):
    extra = {"model.layers.2.mlp.up_proj.weight": np.zeros(3, np.float32)}
    change_tensors(folder, lambda stored: stored | extra)
    refused(folder, r"holds model\.layers\.2\.mlp\.up_proj\.weight, which .* does not have; are bo")


def test_biases_without_their_config(tmp_path):
    folder = plain_copy("tiny_qwen2", tmp_path / "model")
    change_fields(folder, architectures=["LlamaForCausalLM"])
    refused(folder, r"holds model\.layers\.0\.self_attn\.k_proj\.bias, .* and 2 more, which the")


def test_a_wrong_shape_has_both(folder):
    change_tensors(folder, lambda stored: stored | {UP: stored[UP].T})
    refused(
        folder,
        rf"model\.safetensors: {UP} has shape \(64, 96\), expected \(96, 64\) by config\.json",
    )


def test_a_dtype_that_is_no_plain_float(folder):
    change_tensors(folder, lambda stored: stored | {UP: stored[UP].astype(np.int8)})
    refused(folder, rf"{UP} has dtype I8, which is not supported; .* BF16, F16, F32, F64")


def test_saving_over_a_model_is_refused_and_leaves_it_alone(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=r"model holds a model already \(config\.json\); give ano"):
        huggingface.save(huggingface.load(DATA / "tiny_qwen2"), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_save_that_fails_leaves_no_model(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("models.safetensors_folder.save_file", full)
    model = random_model(LlamaConfig(32, 16, 24, num_layers=1, num_heads=2))
    with pytest.raises(OSError, match="No space left"):
        huggingface.save(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_shards_must_hold_something(tmp_path):
    model = random_model(LlamaConfig(32, 16, 24, num_layers=1, num_heads=2))
    with pytest.raises(ValueError, match="max_shard_size=0 must be a positive number of bytes"):
        huggingface.save(model, tmp_path / "model", max_shard_size=0)
    assert not (tmp_path / "model").exists()

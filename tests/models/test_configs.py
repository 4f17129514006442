"""Presets have the published sizes; wrong configurations are explained."""

import dataclasses
import math
import re

import jax
import pytest
from flax import nnx

from models.configs import ALIASES, PRESETS, LlamaConfig, get_config, parameter_count
from models.llama import Llama

PARAMETERS = {
    "small": 806_016,
    "9m": 8_995_968,
    "20m": 19_548_416,
    "30m": 71_442_560,
    "35m": 35_197_824,
    "60m": 58_073_600,
    "130m": 134_105_856,
    "350m": 367_969_280,
    "800m": 953_223_168,
    "1b": 1_339_082_752,
    "7b": 6_738_415_616,
    "qwen2.5-7b": 7_615_616_512,
}
NAMED_WITHOUT_EMBEDDINGS = {"30m", "800m"}
TINY = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=4, num_kv_heads=2
)


def count_from_shapes(config: LlamaConfig) -> int:
    def parameters():
        return nnx.state(Llama(config, rngs=nnx.Rngs(0)), nnx.Param)

    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(jax.eval_shape(parameters)))


def test_every_preset_has_its_count_listed():
    assert PRESETS.keys() == PARAMETERS.keys()


@pytest.mark.product(every=4)
@pytest.mark.parametrize("name", PRESETS)
def test_preset_has_exactly_its_parameters(name):
    assert count_from_shapes(PRESETS[name]) == PARAMETERS[name]
    assert parameter_count(PRESETS[name]) == PARAMETERS[name]


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "small"] + list(ALIASES))
def test_preset_is_near_the_size_in_its_name(name):
    number, unit = re.fullmatch(r"(?:.*-)?([\d.]+)([mb])", name).groups()
    named = float(number) * {"m": 1e6, "b": 1e9}[unit]
    counted = parameter_count(get_config(name), embeddings=name not in NAMED_WITHOUT_EMBEDDINGS)
    # "1b" is 1.34 billion, as published; all others are within a tenth.
    assert counted == pytest.approx(named, rel=0.35 if name == "1b" else 0.10)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": True},
        {"qkv_bias": True},
        {"head_dim": 6},
        {"num_kv_heads": 1, "qkv_bias": True, "tie_embeddings": True},
    ],
    ids=str,
)
def test_closed_form_count_follows_every_option(changes):
    config = dataclasses.replace(TINY, **changes)
    assert parameter_count(config) == count_from_shapes(config)
    tables = 1 if config.tie_embeddings else 2
    assert parameter_count(config) - parameter_count(config, embeddings=False) == tables * 32 * 16


def test_alias_and_capitals_name_the_same_preset():
    assert get_config("1.3b") == get_config("1B") == PRESETS["1b"]


def test_overrides_replace_fields_and_leave_the_preset_alone():
    config = get_config("small", vocab_size=300, dtype="bfloat16")
    assert (config.vocab_size, config.dtype, config.hidden_size) == (300, "bfloat16", 128)
    assert PRESETS["small"].vocab_size == 264


def test_head_dim_follows_an_overridden_width_unless_given():
    assert get_config("small", hidden_size=256).head_dim == 64
    assert get_config("small", hidden_size=256, head_dim=32).head_dim == 32
    assert get_config("small", num_layers=2).head_dim == 32


def test_unknown_preset_names_the_nearest_and_lists_all():
    with pytest.raises(ValueError, match=r"unknown preset '65m'; did you mean '\d+m'\?") as caught:
        get_config("65m")
    assert all(name in str(caught.value) for name in [*PRESETS, *ALIASES])
    with pytest.raises(ValueError, match=r"did you mean 'qwen2.5-7b'\?"):
        get_config("qwen-7b")


def test_unknown_override_names_the_nearest_field():
    with pytest.raises(ValueError, match="unknown model option 'hiden_size'; did you mean 'hidden"):
        get_config("small", hiden_size=64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 18, "head_dim": None}, "hidden_size=18 .* num_heads=4; .*give head_dim"),
        ({"num_kv_heads": 3}, "num_heads=4 is not divisible by num_kv_heads=3; every key/value"),
        ({"head_dim": 5}, "head_dim=5 is odd; .* choose an even head_dim"),
        ({"num_layers": 0}, "num_layers=0 must be positive"),
        ({"rope_theta": -1.0}, r"rope_theta=-1.0 must be positive"),
        ({"dtype": "int32"}, "dtype='int32' is not a floating dtype; use 'float32'"),
        ({"param_dtype": "single-ish"}, "param_dtype='single-ish' is not a floating dtype"),
    ],
    ids=str,
)
def test_bad_configuration_names_the_field_its_value_and_the_remedy(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)

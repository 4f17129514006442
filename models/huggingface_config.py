"""Hugging Face's config.json of a Llama or Qwen2, in and out.

Both layouts are read: transformers 5 keeps ``rope_parameters`` and ``dtype``, earlier versions
``rope_theta``, ``rope_scaling`` and ``torch_dtype``. Both are written, so that each version finds
its own. What a model here cannot compute exactly is refused by the name of its field.
"""

import json
import pathlib
from typing import Any, TypeAlias

from etils import epath

from models.configs import LlamaConfig
from models.rope_scaling import LinearRopeScaling, Llama3RopeScaling, RopeScaling

Path: TypeAlias = epath.Path | pathlib.Path

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
LLAMA_ROPE_THETA = 10_000.0  # of the first Llamas, whose config.json does not say it

# Fields with one value that the models here compute, and what another one would need.
REQUIRED_VALUES = {
    "hidden_act": ("silu", "another activation"),
    "attention_bias": (False, "biases in the attention's output projection"),
    "mlp_bias": (False, "biases in the feed-forward layer"),
    "use_sliding_window": (False, "attention within a window"),
    "quantization_config": (None, "quantised weights"),
}

_NUMBER = (int, float)


def read_config(folder: Path) -> tuple[LlamaConfig, str | None]:
    """The model that a folder's config.json describes.

    Args:
      folder: of the checkpoint.

    Returns:
      The configuration, and the dtype that config.json names, or None.

    Raises:
      ValueError: no folder, no such file, or a field that is missing, of the wrong kind or of a
        model that is not supported, with the path, what was found and the remedy.
    """
    path = folder / "config.json"
    fields = _read_json(path)
    model_type = _check_architecture(fields, path)
    _check_values(fields, path)
    dtype = fields.get("dtype", fields.get("torch_dtype"))
    dtype = None if dtype is None else str(dtype).removeprefix("torch.")
    try:
        theta, scaling = _rope(fields, model_type, path)
        config = LlamaConfig(
            vocab_size=_field(fields, "vocab_size", int, path),
            hidden_size=_field(fields, "hidden_size", int, path),
            intermediate_size=_field(fields, "intermediate_size", int, path),
            num_layers=_field(fields, "num_hidden_layers", int, path),
            num_heads=_field(fields, "num_attention_heads", int, path),
            num_kv_heads=_field(fields, "num_key_value_heads", int, path, default=None),
            head_dim=_field(fields, "head_dim", int, path, default=None),
            max_position=_field(fields, "max_position_embeddings", int, path),
            rope_theta=theta,
            rope_scaling=scaling,
            norm_eps=_field(fields, "rms_norm_eps", _NUMBER, path),
            qkv_bias=model_type == "qwen2",
            tie_embeddings=_field(fields, "tie_word_embeddings", bool, path, default=False),
            dtype=dtype or "float32",
        )
    except ValueError as error:
        message = str(error)
        raise ValueError(message if str(path) in message else f"{path}: {message}") from error
    return config, dtype


def config_fields(config: LlamaConfig, dtype: str, eos_token_id: int | None) -> dict[str, Any]:
    """The content of config.json for a model.

    Args:
      config: the model's; one with biases is a Qwen2, any other a Llama.
      dtype: of the tensors.
      eos_token_id: the token that ends a text, or None.
    """
    model_type = "qwen2" if config.qkv_bias else "llama"
    scaling = _scaling_fields(config.rope_scaling)
    return {
        "architectures": [ARCHITECTURES[model_type]],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "rope_parameters": {
            "rope_theta": config.rope_theta,
            **(scaling or {"rope_type": "default"}),
        },
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "dtype": dtype,
        "torch_dtype": dtype,
        "bos_token_id": None,
        "eos_token_id": eos_token_id,
        "pad_token_id": None,
    }


def _read_json(path: Path) -> dict[str, Any]:
    if not path.parent.is_dir():
        raise ValueError(
            f"there is no folder {path.parent}; a model is read from a local folder: download one "
            "with `hf download NAME --local-dir FOLDER`"
        )
    if not path.is_file():
        raise ValueError(f"{path.parent} has no config.json; is it the folder of a model?")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} holds a {type(fields).__name__}, not an object of fields")
    return fields


def _check_architecture(fields: dict[str, Any], path: Path) -> str:
    """The model type, one of ``ARCHITECTURES``."""
    named = fields.get("architectures") or [ARCHITECTURES.get(str(fields.get("model_type")))]
    for model_type, architecture in ARCHITECTURES.items():
        if named == [architecture]:
            return model_type
    found = f"architectures={fields.get('architectures')}, model_type={fields.get('model_type')!r}"
    raise ValueError(
        f"{path}: {found} is not supported; models here are {', '.join(ARCHITECTURES.values())}"
    )


def _check_values(fields: dict[str, Any], path: Path) -> None:
    for name, (supported, what) in REQUIRED_VALUES.items():
        if fields.get(name, supported) not in (supported, None):
            raise ValueError(
                f"{path}: {name}={fields[name]!r} is not supported, the models here have "
                f"{name}={supported!r}: {what} would be needed"
            )


_REQUIRED = object()


def _field(
    fields: dict[str, Any], name: str, kind: Any, path: Path, default: Any = _REQUIRED
) -> Any:
    """A field of the right kind; None counts as missing."""
    value = fields.get(name)
    if value is None:
        if default is _REQUIRED:
            raise ValueError(f"{path}: the field {name!r} is missing")
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = {int: "an integer", bool: "true or false", _NUMBER: "a number", dict: "an object"}
        raise ValueError(f"{path}: {name}={value!r} is not {wanted[kind]}")
    return value


def _rope(fields: dict[str, Any], model_type: str, path: Path) -> tuple[float, RopeScaling | None]:
    """Base and scaling of the rotary frequencies, from either layout."""
    new = _field(fields, "rope_parameters", dict, path, default={})
    old = _field(fields, "rope_scaling", dict, path, default={})
    theta = _field(new, "rope_theta", _NUMBER, path, default=None)
    old_theta = _field(fields, "rope_theta", _NUMBER, path, default=None)
    if None not in (theta, old_theta) and theta != old_theta:
        raise ValueError(
            f"{path}: rope_theta={old_theta} contradicts rope_parameters, which has "
            f"rope_theta={theta}; remove the wrong one"
        )
    theta = old_theta if theta is None else theta
    if theta is None and model_type == "llama":
        theta = LLAMA_ROPE_THETA
    if theta is None:
        raise ValueError(f"{path}: the field 'rope_theta' is missing")
    scaling = new or old
    rope_type = scaling.get("rope_type", scaling.get("type", "default"))
    if scaling.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(
            f"{path}: partial_rotary_factor={scaling['partial_rotary_factor']} is not supported; "
            "the models here turn every feature of a head"
        )
    if rope_type == "default":
        return float(theta), None
    if rope_type == "linear":
        return float(theta), LinearRopeScaling(_field(scaling, "factor", _NUMBER, path))
    if rope_type == "llama3":
        return float(theta), Llama3RopeScaling(
            factor=_field(scaling, "factor", _NUMBER, path),
            low_freq_factor=_field(scaling, "low_freq_factor", _NUMBER, path),
            high_freq_factor=_field(scaling, "high_freq_factor", _NUMBER, path),
            original_max_position=_field(scaling, "original_max_position_embeddings", int, path),
        )
    raise ValueError(
        f"{path}: rope_type={rope_type!r} is not supported; rotary scaling here is one of "
        "'default', 'linear', 'llama3'"
    )


def _scaling_fields(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    if isinstance(scaling, LinearRopeScaling):
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_position,
    }

"""The model that the options describe."""

import dataclasses
from typing import Any

from models.configs import get_config
from models.llama import LlamaConfig
from training.config.pretraining import PretrainConfig
from training.errors import UserError, as_user_error

# The vocabulary is rounded up to this: odd sizes are slow, and do not divide over devices.
VOCABULARY_MULTIPLE = 8


def model_config(config: PretrainConfig, vocab_size: int) -> LlamaConfig:
    """The preset with the overrides of the command line.

    Another width keeps the width of the heads and the proportions of everything else.

    Raises:
        UserError: for an unknown preset, a width that the heads do not divide, or a sequence that
            is too long.
    """
    with as_user_error():
        preset = get_config(
            config.preset,
            vocab_size=-(-vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE,
            dtype=config.dtype,
            param_dtype=config.param_dtype,
            remat=config.remat,
        )
        overrides: dict[str, Any] = {}
        if config.num_layers is not None:
            overrides["num_layers"] = config.num_layers
        if config.hidden_size is not None:
            overrides |= _scaled_width(preset, config.hidden_size)
        if config.seq_len > preset.max_position:
            raise UserError(
                f"--seq-len {config.seq_len} is longer than preset {config.preset!r} takes "
                f"({preset.max_position})"
            )
        return dataclasses.replace(preset, **overrides)


def _scaled_width(preset: LlamaConfig, hidden_size: int) -> dict[str, int]:
    heads, remainder = divmod(hidden_size, preset.head_dim)
    kv_heads = max(1, heads * preset.num_kv_heads // preset.num_heads)
    if hidden_size < 1 or remainder or heads % kv_heads:
        raise UserError(
            f"--hidden-size {hidden_size} does not suit heads of width {preset.head_dim} with "
            f"{preset.num_heads // preset.num_kv_heads} query head(s) per key head: use a "
            f"multiple of {preset.head_dim * preset.num_heads // preset.num_kv_heads}"
        )
    intermediate = round(preset.intermediate_size * hidden_size / preset.hidden_size / 8) * 8
    return {
        "hidden_size": hidden_size,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "intermediate_size": intermediate,
    }

"""Options of the model and of its numbers, and the model that they describe."""

import dataclasses
from typing import Annotated, Any, Literal

from models.configs import LlamaConfig, get_config
from training.config.options import CHANGEABLE, UNSET
from training.errors import UserError, as_user_error

# The vocabulary is rounded up to this: odd sizes are slow, and do not divide over devices.
VOCABULARY_MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The model."""

    preset: str = "small"
    """Model size; see models/configs.py."""
    hidden_size: Annotated[int | None, UNSET] = None
    """Overrides the preset's width; heads and MLP scale with it."""
    num_layers: Annotated[int | None, UNSET] = None
    """Overrides the preset's depth."""
    seq_len: int = 256
    """Tokens per sequence."""


@dataclasses.dataclass(frozen=True)
class NumberOptions:
    """The types of the model's numbers, and which of them are kept."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation."""
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the parameters."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    """How updated bfloat16 parameters are rounded: to nearest, which loses updates below half of
    their last bit, or up or down at random, right on average."""
    remat: bool = dataclasses.field(default=False, metadata=CHANGEABLE)
    """Recompute activations in the backward pass instead of keeping them."""


def preset_model(options: ModelOptions, numbers: NumberOptions, vocab_size: int) -> LlamaConfig:
    """The preset with the overrides of the command line.

    Another width keeps the width of the heads and the proportions of everything else.
    """
    with as_user_error():
        model = get_config(
            options.preset,
            vocab_size=-(-vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE,
            dtype=numbers.dtype,
            param_dtype=numbers.param_dtype,
            remat=numbers.remat,
        )
    if options.seq_len > model.max_position:
        raise UserError(
            f"--seq-len {options.seq_len} is longer than preset {options.preset!r} takes "
            f"({model.max_position})"
        )
    sizes: dict[str, Any] = (
        {} if options.hidden_size is None else _sizes(model, options.hidden_size)
    )
    if options.num_layers is not None:
        sizes["num_layers"] = options.num_layers
    with as_user_error():
        return dataclasses.replace(model, **sizes)


def _sizes(model: LlamaConfig, hidden_size: int) -> dict[str, Any]:
    """What changes with the width."""
    heads, remainder = divmod(hidden_size, model.head_dim)
    kv_heads = max(1, heads * model.num_kv_heads // model.num_heads)
    if hidden_size < 1 or remainder or heads % kv_heads:
        raise UserError(
            f"--hidden-size {hidden_size} does not suit heads of width {model.head_dim} with "
            f"{model.num_heads // model.num_kv_heads} query head(s) per key head: use a "
            f"multiple of {model.head_dim * model.num_heads // model.num_kv_heads}"
        )
    intermediate_size = round(model.intermediate_size * hidden_size / model.hidden_size / 8) * 8
    return {
        "hidden_size": hidden_size,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "intermediate_size": intermediate_size,
    }

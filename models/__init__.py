"""Language models in flax.nnx to train with the optimizers: Llama and Qwen2 families."""

from models import huggingface
from models.configs import PRESETS, LlamaConfig, get_config, parameter_count
from models.llama import Llama, matrix_dimension_numbers

__all__ = [
    "PRESETS",
    "Llama",
    "LlamaConfig",
    "get_config",
    "huggingface",
    "matrix_dimension_numbers",
    "parameter_count",
]

"""Numerical kernels: cosine transforms, Newton–Schulz, quantisation. They know no optimizer."""

from lowrank_optax.linalg.dct import dct_columns, dct_matrix, orthogonal_dct, orthogonal_idct
from lowrank_optax.linalg.newton_schulz import newton_schulz
from lowrank_optax.linalg.quantization import (
    Quantized,
    dequantize,
    quantize,
    quantized_zeros,
)

__all__ = [
    "Quantized",
    "dct_columns",
    "dct_matrix",
    "dequantize",
    "newton_schulz",
    "orthogonal_dct",
    "orthogonal_idct",
    "quantize",
    "quantized_zeros",
]

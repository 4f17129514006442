"""Gradient transformations that work inside a subspace or on a step, by name."""

from lowrank_optax.transforms.adafactor import scale_by_adafactor
from lowrank_optax.transforms.adam8bit import scale_by_adam8bit
from lowrank_optax.transforms.adam_mini import scale_by_adam_mini
from lowrank_optax.transforms.by_name import CHOICES, Inner, resolve
from lowrank_optax.transforms.cautious_decay import add_cautious_decay
from lowrank_optax.transforms.orthonormalize import orthonormalize
from lowrank_optax.transforms.precision import in_float32
from lowrank_optax.transforms.published import (
    scale_by_adam_bias_correction,
    scale_by_published_adam,
    scale_by_uncorrected_adam,
    scale_by_unsigned_lion,
)

__all__ = [
    "CHOICES",
    "Inner",
    "add_cautious_decay",
    "in_float32",
    "orthonormalize",
    "resolve",
    "scale_by_adafactor",
    "scale_by_adam8bit",
    "scale_by_adam_bias_correction",
    "scale_by_adam_mini",
    "scale_by_published_adam",
    "scale_by_uncorrected_adam",
    "scale_by_unsigned_lion",
]

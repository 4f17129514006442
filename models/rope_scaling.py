"""Rescaled rotary frequencies: how a model reads longer texts than it was first trained on."""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class LinearRopeScaling:
    """Every frequency divided by ``factor``: positions are interpolated (arXiv 2306.15595).

    Attributes:
      factor: how many times longer the texts may be, at least 1.

    Raises:
      ValueError: naming the field, its value and the remedy.
    """

    factor: float

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    def scale(self, frequencies: Float[Array, " half"]) -> Float[Array, " half"]:
        """The frequencies to turn by, in radians a position."""
        return frequencies / self.factor


@dataclasses.dataclass(frozen=True)
class Llama3RopeScaling:
    """The rule of Llama 3.1: only waves that are long beside the original context are stretched.

    A frequency that turns ``turns`` times within ``original_max_position`` is divided by
    ``factor`` if turns <= ``low_freq_factor``, kept if turns >= ``high_freq_factor``, and between
    the two is the mix of both that is linear in turns.

    Attributes:
      factor: how many times longer the texts may be, at least 1.
      low_freq_factor: turns up to which a wave is stretched in full.
      high_freq_factor: turns from which a wave stays as it is.
      original_max_position: longest sequence before the scaling.

    Raises:
      ValueError: naming the field, its value and the remedy.

    Reference: The Llama 3 Herd of Models (arXiv 2407.21783) and Meta's ``apply_scaling``.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int

    def __post_init__(self) -> None:
        _check_factor(self.factor)
        if not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor={self.low_freq_factor} must be positive and below "
                f"high_freq_factor={self.high_freq_factor}; Llama 3.1 has 1 and 4"
            )
        if self.original_max_position < 1:
            raise ValueError(
                f"original_max_position={self.original_max_position} must be positive; "
                "Llama 3.1 has 8192"
            )

    def scale(self, frequencies: Float[Array, " half"]) -> Float[Array, " half"]:
        """The frequencies to turn by, in radians a position."""
        turns = self.original_max_position * frequencies / (2 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = jnp.clip(kept, 0.0, 1.0)
        return (1 - kept) * frequencies / self.factor + kept * frequencies


RopeScaling = LinearRopeScaling | Llama3RopeScaling


def _check_factor(factor: float) -> None:
    if not 1 <= factor < math.inf:
        raise ValueError(f"rotary scaling factor={factor} must be at least 1 and finite")

"""Recipes whose output neurons are normalised."""

from collections.abc import Callable
from typing import Any

import optax

from lowrank_optax.transforms import normalize_neurons

ScaleBy = Callable[..., optax.GradientTransformation]


def with_neurons(scale_by: ScaleBy, b2: Any) -> ScaleBy:
    """Steps whose neurons are normalised afterwards, as `normalize_neurons` does; None not to.

    Args:
      scale_by: as in a `Recipe`.
      b2: decay of the neurons' mean squares.
    """
    if b2 is None:
        return scale_by

    def normalized(**placing: Any) -> optax.GradientTransformation:
        neurons = normalize_neurons(b2, dimension_numbers=placing["dimension_numbers"])
        return optax.chain(scale_by(**placing), neurons)

    return normalized

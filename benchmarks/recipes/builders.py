"""How a competitor is built from the numbers that are searched, and their grids."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from lowrank_optax.transforms.precision import in_float32

FALLBACK_RATE = 0.003
"""Peak rate of the AdamW on embeddings, head and norms, where it is not tuned."""
RATES = tuple(0.02 * 2.0**k for k in range(-10, 6))

GRIDS: dict[str, tuple[float, ...]] = {
    "learning_rate": RATES,
    "embedding_rate": RATES,
    "momentum": (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99),
    "b2": (0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 0.9995, 0.9999, 0.99999),
}
"""The values that every method's numbers are taken from."""


@dataclasses.dataclass(frozen=True)
class Method:
    """A competitor.

    Attributes:
        build: (rate now, its share of the peak, dimension_numbers, the other numbers) -> optimizer.
        start: the numbers that are tuned, in this order, and where on `GRIDS` that starts.
    """

    build: Callable[..., optax.GradientTransformation]
    start: Mapping[str, float]


def ours(make: Callable[..., Any], start: Any, /, **options: Any) -> Method:
    """One of this library, with AdamW on embeddings, head and norms."""

    def build(
        rate: Any,
        share: Any,
        dimension_numbers: Any,
        embedding_rate: Any = FALLBACK_RATE,
        **numbers: Any,
    ) -> optax.GradientTransformation:
        return make(
            rate,
            dimension_numbers=dimension_numbers,
            fallback_learning_rate=embedding_rate * share,
            **options,
            **numbers,
        )

    return Method(build, start)


def at_one_rate(
    make: Callable[..., Any], /, start: Any, shape_scale: str = "rms", **options: Any
) -> Method:
    """Embeddings, head and norms at the matrices' rate too, as if it were AdamW in one line."""

    def build(
        rate: Any, share: Any, dimension_numbers: Any, **numbers: Any
    ) -> optax.GradientTransformation:
        del share
        return make(
            rate,
            dimension_numbers=dimension_numbers,
            fallback_learning_rate=rate,
            shape_scale=shape_scale,
            **options,
            **numbers,
        )

    return Method(build, start)


def whole(scale_by: Callable[..., Any], start: Any) -> Method:
    """What treats all parameters alike, but for the rate, if two are tuned; state in float32."""

    def build(
        rate: Any,
        share: Any,
        dimension_numbers: Any,
        embedding_rate: Any = None,
        **numbers: Any,
    ) -> optax.GradientTransformation:
        scale = in_float32(scale_by(**numbers))
        if embedding_rate is None:
            return optax.chain(scale, optax.scale_by_learning_rate(rate))

        def labels(params: Any) -> Any:
            label = lambda _, matrix: "rest" if matrix is None else "matrix"
            return jax.tree.map(label, params, dimension_numbers(params))

        rates = {"matrix": rate, "rest": embedding_rate * share}
        steps = {label: optax.scale_by_learning_rate(its) for label, its in rates.items()}
        return optax.chain(scale, optax.partition(steps, labels))

    return Method(build, start)

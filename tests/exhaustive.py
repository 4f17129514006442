"""Products of parameters of which the quick command takes a few: the rest is marked slow."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def mostly_slow(
    values: Iterable[Any], quick: Callable[[int, Any], bool], ids: Callable[[Any], str] = str
) -> list[Any]:
    """Parameters of a test, marked slow but for those that are quick.

    Args:
        values: of the parameter.
        quick: (position, value) -> whether the quick command takes it.
        ids: of a value.
    """
    return [
        pytest.param(value, id=ids(value), marks=() if quick(i, value) else pytest.mark.slow)
        for i, value in enumerate(values)
    ]


def every(step: int) -> Callable[[int, Any], bool]:
    """Every `step`-th value is quick."""
    return lambda position, _: position % step == 0

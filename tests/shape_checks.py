"""What tests check as they run: arrays are of the shapes that a signature says."""

import typing
from collections.abc import Callable
from typing import Any

import beartype
import jaxtyping


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype's check where there is a shape; all other types are mypy's, which costs no time."""
    if any(map(_has_shape, function.__annotations__.values())):
        return beartype.beartype(function)
    return function


def _has_shape(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(map(_has_shape, typing.get_args(annotation)))

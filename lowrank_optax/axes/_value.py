"""Values of an axis as pytrees, so that numbers that may be traced are data."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar, dataclass_transform

import jax

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def axis_value(*numbers: str) -> Callable[[type[T]], type[T]]:
    """Make a class a frozen dataclass and a pytree whose leaves are the named fields.

    `optax.inject_hyperparams` builds an optimizer anew in every traced step, around traced scalars.
    Under a mesh with `Explicit` axes these can enter the engine's mathematics as arguments only, so
    whatever may be a traced number has to be a leaf. All other fields fix the program.
    """

    def register(cls: type[T]) -> type[T]:
        made = dataclasses.dataclass(frozen=True)(cls)
        fields = [field.name for field in dataclasses.fields(made)]  # type: ignore[arg-type]
        static = [name for name in fields if name not in numbers]
        jax.tree_util.register_dataclass(made, data_fields=list(numbers), meta_fields=static)
        return made

    return register

"""Options stand in groups, for the rooms that read them, and are flat elsewhere: on the command
line, in a file of options and in a run's config.json."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from etils import epath

from training.errors import UserError
from training.files import is_local

_Config = TypeVar("_Config")


def _option(kind: type) -> Any:
    """How a path of this kind is read from the command line: ~ is the user's home."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda parts: _path(kind, parts[0]),
        is_instance=lambda value: isinstance(value, os.PathLike),
        str_from_instance=lambda path: [str(path)],
    )


def _path(kind: type, text: str) -> Any:
    if kind is epath.Path and not is_local(text):
        import fsspec  # with whatever reads gzip and sockets; options know nothing of it

        try:
            fsspec.get_filesystem_class(text.partition("://")[0])
        except (ImportError, ValueError) as error:  # what reads such a bucket is not installed
            raise UserError(f"{text}: {error}") from error
    return kind(text).expanduser()


# Types of options; pathlib would make gs:/bucket of gs://bucket.
Folder = Annotated[epath.Path, _option(epath.Path)]
LocalPath = Annotated[Path, _option(Path)]

# Options whose default is not a number say in their text what it is.
UNSET = tyro.conf.arg(help_behavior_hint="")

# Metadata of the options that a resume may change: they touch neither the sequence of updates nor,
# but for rounding on another mesh or with other micro-batches, the losses in metrics.jsonl.
CHANGEABLE = {"a resume may change it": True}


def options_of(config_type: Any) -> Iterator[dataclasses.Field[Any]]:
    """The fields of a dataclass, with those of the groups in it for the groups."""
    for field in dataclasses.fields(config_type):
        if dataclasses.is_dataclass(field.type):
            yield from options_of(field.type)
        else:
            yield field


def flat(config: Any) -> dict[str, Any]:
    """Option -> value, those of groups included."""
    values: dict[str, Any] = {}
    for name, value in vars(config).items():
        values |= flat(value) if dataclasses.is_dataclass(value) else {name: value}
    return values


def with_options(config: _Config, **values: Any) -> _Config:
    """A configuration with other values of some options, whichever groups they are in."""
    if unknown := values.keys() - {field.name for field in options_of(config)}:
        raise TypeError(f"{type(config).__name__} has no option {', '.join(sorted(unknown))}")
    return part(type(config), flat(config) | values)


def part(kind: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass made of the options of its fields' names, and so the groups in it."""
    fields = dataclasses.fields(kind)
    groups = {f.name: part(f.type, values) for f in fields if dataclasses.is_dataclass(f.type)}
    return kind(**{f.name: values[f.name] for f in fields if f.name not in groups}, **groups)

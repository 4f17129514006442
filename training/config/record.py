"""A run's config.json: the options that it is made with, written and read again."""

import os
from typing import Any

from etils import epath

from training.config.options import flat
from training.config.pretraining import InitOptions
from training.files import read_json

CONFIG_FILE = "config.json"


def to_json(config: Any, data_checksum: str) -> dict[str, Any]:
    """A configuration as the flat JSON object of `config.json`."""
    elsewhere = flat(config.processes)  # where and how a run is made is not what it is
    values = {name: as_json(value) for name, value in flat(config).items() if name not in elsewhere}
    return values | {"data_checksum": data_checksum}


def as_json(value: Any) -> Any:
    """An option's value as JSON gives it back."""
    if isinstance(value, os.PathLike):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def recorded_options(folder: epath.PathLike) -> dict[str, Any]:
    """The content of a run's config.json; empty if there is none."""
    path = epath.Path(folder) / CONFIG_FILE
    return read_json(path) if path.exists() else {}


def recorded_init(folder: epath.PathLike) -> InitOptions:
    """What a run began with, by its config.json."""
    saved = recorded_options(folder)
    if not saved.get("init_from"):
        return InitOptions()
    return InitOptions(epath.Path(saved["init_from"]), saved["init_state"])

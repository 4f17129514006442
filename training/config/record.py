"""A run's config.json, read again: the options that it was made with."""

from typing import Any

from etils import epath

from training.config.pretraining import InitOptions
from training.files import read_json

CONFIG_FILE = "config.json"


def read_config(folder: epath.PathLike) -> dict[str, Any]:
    """The content of a run's config.json; empty if there is none.

    Raises:
        UserError: if it is not JSON.
    """
    path = epath.Path(folder) / CONFIG_FILE
    return read_json(path) if path.exists() else {}


def recorded_init(folder: epath.PathLike) -> InitOptions:
    """What a run began with, by its config.json."""
    saved = read_config(folder)
    if not saved.get("init_from"):
        return InitOptions()
    return InitOptions(epath.Path(saved["init_from"]), saved["init_state"])

"""Options from a file: --config FILE, of JSON or YAML; a run's own config.json is one."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from training.config.hyperparameters import Hyperparameters
from training.config.options import options_of
from training.errors import UserError, as_flag, nearest

OPTION = "--config"
# What a run's config.json says besides its options, and where the run was written to.
_OF_A_RUN = ("data_checksum", "out", "resume", "allow_changed_data")
# What a run's config.json says of its optimizer, defaults too: nothing of another one.
_OF_ITS_OPTIMIZER = (
    *("optimizer", "rank", "learning_rate", "fallback_learning_rate"),
    *(field.name for field in dataclasses.fields(Hyperparameters)),
)


def with_config_file(arguments: list[str], config_type: type) -> list[str]:
    """The arguments of a command with --config FILE replaced by the options in the file.

    They come first, so that what is on the command line as well overrides them.

    Args:
        arguments: of the command, without its name.
        config_type: the dataclass of its options.

    Raises:
        UserError: the file cannot be read, or has what is no option of the command.
    """
    rest: list[str] = []
    options: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, value = argument.partition("=")
        if name != OPTION:
            rest.append(argument)
            continue
        file = value if equals else next(waiting, None)
        if not file:
            raise UserError(f"{OPTION} needs a file of options, as JSON or YAML")
        options += _options(Path(file).expanduser(), config_type, _value(arguments, "--optimizer"))
    return [*options, *rest]


def _value(arguments: list[str], option: str) -> str | None:
    """Of an option's last mention, with = or without."""
    pairs = [argument.partition("=") for argument in arguments]
    found = [
        pair[2] or "".join(arguments[i + 1 : i + 2])
        for i, pair in enumerate(pairs)
        if pair[0] == option
    ]
    return found[-1] if found else None


def _options(path: Path, config_type: type, optimizer: str | None) -> list[str]:
    values = _read(path)
    if "data_checksum" in values:
        others = optimizer and optimizer != values.get("optimizer")
        left_out = _OF_A_RUN + (_OF_ITS_OPTIMIZER if others else ())
        values = {name: value for name, value in values.items() if name not in left_out}
    known = {field.name: field.type for field in options_of(config_type)}
    options: list[str] = []
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{path}: {name!r} is no option of this command.{nearest(name, known)}")
        if known[name] is bool and not isinstance(value, bool):
            raise UserError(f"{path}: {name} is {value!r}, but must be true or false")
        if known[name] is bool:
            options += [as_flag(name)] if value else []
        elif isinstance(value, list):
            options += [as_flag(name), *map(str, value)] if value else []
        elif value is not None:
            options += [as_flag(name), str(value)]
    return options


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
        if path.suffix in (".yaml", ".yml"):
            import yaml

            values = yaml.safe_load(text)
        else:
            values = json.loads(text)
    except OSError as error:
        raise UserError(f"{OPTION} {path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # of JSON or of YAML
        reason = " ".join(str(error).split())
        raise UserError(f"{OPTION} {path}: is not valid: {reason}") from error
    if not isinstance(values, dict):
        raise UserError(f"{OPTION} {path}: must hold options as name: value")
    return {str(name).replace("-", "_"): value for name, value in values.items()}

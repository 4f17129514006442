"""Options from a file: --config FILE, of JSON or YAML; a run's own config.json is one."""

import argparse
import dataclasses
import itertools
import json
import typing
from pathlib import Path
from typing import Any

import tyro

from training.config.hyperparameters import Hyperparameters
from training.config.options import options_of
from training.errors import UserError, as_flag, nearest

OPTION = "--config"
HELP = f"Options may come from a file: {OPTION} FILE, YAML or JSON; those given here override it."
_POSITIONAL = typing.get_args(tyro.conf.Positional[str])[-1]  # in the type of such an option
# What a run's config.json says besides its options, and where the run was written to.
_OF_A_RUN = ("data_checksum", "out", "resume", "allow_changed_data")
# What a run's config.json says of its optimizer, defaults too: nothing of another one.
_OF_ITS_OPTIMIZER = (
    *("optimizer", "rank", "learning_rate", "fallback_learning_rate"),
    *(field.name for field in dataclasses.fields(Hyperparameters)),
)


def with_config_file(arguments: list[str], config_type: type) -> list[str]:
    """The arguments of a command, without its name, with --config FILE replaced by the options in
    the file.

    They come first, so that what is on the command line as well overrides them.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(OPTION, dest="files", action="append", nargs="?", default=[])
    given, rest = parser.parse_known_args(arguments)
    parser.add_argument("--optimizer", nargs="?")
    optimizer = parser.parse_known_args(rest)[0].optimizer
    options: list[str] = []
    positional: dict[str, list[str]] = {}
    known = {field.name: field.type for field in options_of(config_type)}
    for file in given.files:
        if not file:
            raise UserError(f"{OPTION} needs a file of options, as JSON or YAML")
        for name, values in _options(Path(file).expanduser(), known, optimizer).items():
            if _POSITIONAL in typing.get_args(known[name]):
                positional[name] = values
            else:
                options += [as_flag(name), *values]
    return [*options, *(_with_positional(rest, positional, known) if positional else rest)]


def _with_positional(
    arguments: list[str], values: dict[str, list[str]], known: dict[str, Any]
) -> list[str]:
    """The arguments, with a file's values for those without a name that are not among them."""
    flags = {as_flag(name) for name, kind in known.items() if kind is bool}
    named: list[str] = []
    given: list[str] = []
    for before, argument in itertools.pairwise(["", *arguments]):
        is_value = before.startswith("--") and "=" not in before and before not in flags
        (named if argument.startswith("-") or is_value else given).append(argument)
    names = [name for name, kind in known.items() if _POSITIONAL in typing.get_args(kind)]
    if len(given) > sum(name not in values for name in names):
        return arguments
    waiting = iter(given)
    for name in names:
        named += values.get(name) or itertools.islice(waiting, 1)
    return named


def _options(path: Path, known: dict[str, Any], optimizer: str | None) -> dict[str, list[str]]:
    """What the file says of each option, as it is written on the command line."""
    values = _read(path)
    if "data_checksum" in values:
        others = optimizer and optimizer != values.get("optimizer")
        left_out = _OF_A_RUN + (_OF_ITS_OPTIMIZER if others else ())
        values = {name: value for name, value in values.items() if name not in left_out}
    options: dict[str, list[str]] = {}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{path}: {name!r} is no option of this command.{nearest(name, known)}")
        if known[name] is bool and not isinstance(value, bool):
            raise UserError(f"{path}: {name} is {value!r}, but must be true or false")
        if known[name] is bool:
            options |= {name: []} if value else {}
        elif value not in (None, []):
            options[name] = list(map(str, value)) if isinstance(value, list) else [str(value)]
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

"""Optional dependencies: imported where they are needed, explained where they are missing."""

import importlib
from types import ModuleType

from training.data.reading import DataError


def import_extra(module: str, what: str, *, extra: str) -> ModuleType:
    """Imports an optional dependency.

    Args:
        module: its name.
        what: what needs it, for the message.
        extra: the extra of this project that installs it.

    Raises:
        DataError: it is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise DataError(
            f"{what} need the package {module}, which is not installed. "
            f'Install it with: pip install -e ".[{extra}]"'
        ) from error

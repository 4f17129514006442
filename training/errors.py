"""Errors that are shown to people as one line, and the words that they are made of."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """Bad input from the user: shown as one `error: ...` line, exit status 2, no traceback.

    Whatever reads options, data or a folder raises it; `train.main` handles it.
    """


class DataError(UserError):
    """Data that cannot be used; the message names the file, the line if known, and the remedy."""


class TrainingFailedError(Exception):
    """The run cannot go on (non-finite loss, full disk): `error: ...`, exit status 1."""

    def __init__(self, message: str, *, diverged: bool = False):
        super().__init__(message)
        self.diverged = diverged  # because of a number that is not finite


@contextlib.contextmanager
def as_user_error() -> Iterator[None]:
    """Turns the ValueErrors of a call that only checks the user's values into `UserError`s.

    Used around single calls (preset look-up, optimizer construction), so that a ValueError from
    anywhere else is still a bug with a traceback.
    """
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown `name`: the nearest known one and all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return f"{guess} Known: {', '.join(names)}."


def as_flag(name: str) -> str:
    """The command line's spelling of an option, e.g. "--batch-size" of "batch_size"."""
    return "--" + name.replace("_", "-")

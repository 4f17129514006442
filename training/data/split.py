"""Which documents are held out for validation: neither their order nor the machine matters."""

import hashlib

import numpy as np

from training.errors import DataError

# Which documents are held out does not depend on a run's seed: validation losses of different
# seeds are of the same text.
_SPLIT_SEED = 0


def document_rank(name: str) -> float:
    """Returns a number in [0, 1) that depends on nothing but the document's name: 53 hashed bits.

    Below the fraction for validation, the document is held out.
    """
    text = f"split {_SPLIT_SEED} {name}".encode("utf-8", "surrogateescape")
    return (int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 11) / 2**53


def choose_validation(ranks: np.ndarray, fraction: float) -> np.ndarray:
    """Chooses the documents that are held out: those whose hash is below the fraction.

    So neither the order of the documents nor the other ones matter. One document at least is held
    out, and one is not.

    Args:
        ranks: float64 (documents,), of `document_rank`; two documents at least.
        fraction: of the documents for validation, between 0 and 1.

    Returns:
        bool (documents,): True for validation.
    """
    chosen = ranks < fraction
    if not chosen.any():
        chosen[np.argmin(ranks)] = True
    elif chosen.all():
        chosen[np.argmax(ranks)] = False
    return chosen


def cut_in_two(text: str, name: str, validation_fraction: float) -> tuple[str, str]:
    """Cuts a text, between two characters, so that its tail has the fraction of the bytes or more.

    Raises:
        DataError: it is a single character.
    """
    data = text.encode("utf-8")
    cut = len(data) - max(1, round(validation_fraction * len(data)))
    # Bytes 10xxxxxx continue a UTF-8 character: cut before the character, not inside it.
    while cut > 0 and data[cut] & 0b1100_0000 == 0b1000_0000:
        cut -= 1
    if cut == 0:
        raise DataError(
            f"{name}: {len(data)} bytes are too few to be split into training and validation "
            "data. Give more text."
        )
    return data[:cut].decode("utf-8"), data[cut:].decode("utf-8")

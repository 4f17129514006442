"""Tokenizers: text to token ids and back."""

import difflib
from collections.abc import Iterable
from typing import Protocol

import numpy as np

_END_OF_TEXT = 256


class Tokenizer(Protocol):
    """What the data pipeline and the sampler need of a tokenizer.

    Attributes:
        name: the name that `get_tokenizer` finds it by.
        vocab_size: number of token ids, `eos_id` included; ids are 0 ... vocab_size - 1.
        eos_id: the id that separates documents.
    """

    name: str
    vocab_size: int
    eos_id: int

    def encode(self, text: str | bytes) -> np.ndarray:
        """Returns the int32 token ids (tokens,) of `text`, without any end-of-text."""
        ...

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of the token ids, end-of-text left out."""
        ...


class ByteTokenizer:
    """Every UTF-8 byte is a token; id 256 is the end of a text.

    Example:
        >>> tokenizer = ByteTokenizer()
        >>> tokenizer.encode("né").tolist()
        [110, 195, 169]
        >>> tokenizer.decode([110, 195, 169, tokenizer.eos_id])
        'né'
    """

    name: str = "bytes"
    vocab_size: int = 257
    eos_id: int = _END_OF_TEXT

    def encode(self, text: str | bytes) -> np.ndarray:
        """Returns the bytes of a text as ids.

        Args:
            text: a string, encoded as UTF-8, or bytes, taken as they are.

        Returns:
            int32 (bytes,), values 0 ... 255.
        """
        data = text.encode("utf-8") if isinstance(text, str) else text
        return np.frombuffer(data, np.uint8).astype(np.int32)

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of byte ids.

        Args:
            tokens: ids 0 ... 256 in any iterable; end-of-text ids are left out.

        Returns:
            The text. A model can emit bytes that are not valid UTF-8: they become U+FFFD.

        Raises:
            ValueError: an id is not in 0 ... 256.
        """
        ids = np.fromiter(tokens, np.int64)
        outside = ids[(ids < 0) | (ids >= self.vocab_size)]
        if outside.size:
            raise ValueError(
                f"token id {outside[0]} is not a byte token: ids are 0 ... {self.vocab_size - 1}. "
                "Decode with the tokenizer that the model was trained with."
            )
        return ids[ids != self.eos_id].astype(np.uint8).tobytes().decode("utf-8", errors="replace")


_TOKENIZERS = {ByteTokenizer.name: ByteTokenizer}


def get_tokenizer(name: str) -> Tokenizer:
    """Returns the tokenizer of a name.

    Args:
        name: "bytes".

    Raises:
        ValueError: no tokenizer has this name; the message gives the nearest one.
    """
    if name in _TOKENIZERS:
        return _TOKENIZERS[name]()
    nearest = difflib.get_close_matches(name, _TOKENIZERS, n=1, cutoff=0.4)
    suggestion = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(
        f"unknown tokenizer {name!r}.{suggestion} Known tokenizers: {', '.join(_TOKENIZERS)}."
    )

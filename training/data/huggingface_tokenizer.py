"""Tokenizers of the `tokenizers` library: any `tokenizer.json`."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tokenizers

from training.errors import DataError

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"

# How an end of text is called where no tokenizer_config.json says it.
_KNOWN_END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]")
# The library keeps offsets and strings of every token of a call; longer texts are cut at the end
# of a line.
_PIECE_CHARACTERS = 2**20


class HuggingFaceTokenizer:
    """A tokenizer given as the text of a `tokenizer.json`.

    A special token spelled out in a text, such as "<|endoftext|>", is text like any other. Texts
    of more than 2**20 characters are cut after a line's end and tokenised in pieces.

    Args:
        definition: content of `tokenizer.json`.
        name: the name that it is found by.
        end_of_text: the token that separates documents; None finds one of the usual ones.

    Raises:
        DataError: the definition is not valid, or it has no such end of text.

    Attributes:
        name, vocab_size, eos_id, checksum: see `training.data.tokenizers.Tokenizer`.
    """

    def __init__(self, definition: str, name: str, end_of_text: str | None = None):
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(definition)
        # The library raises Exception itself, with serde's message.
        except Exception as error:
            raise DataError(
                f"{name}: not a valid tokenizer.json ({error}). Give the tokenizer.json of a "
                "Hugging Face model folder."
            ) from error
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.name = name
        self.definition = definition
        self.end_of_text = _find_end_of_text(vocabulary, name, end_of_text)
        self.eos_id = vocabulary[self.end_of_text]
        self.vocab_size = max(vocabulary.values()) + 1

    @classmethod
    def from_file(cls, path: Path, name: str) -> "HuggingFaceTokenizer":
        """Reads a `tokenizer.json`, and the end of text from `tokenizer_config.json` beside it.

        Raises:
            DataError: a file cannot be read or is not valid.
        """
        try:
            definition = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as a tokenizer: {error}") from error
        return cls(definition, name, _configured_end_of_text(path.with_name(CONFIG_FILE)))

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return HuggingFaceTokenizer, (self.definition, self.name, self.end_of_text)

    @property
    def checksum(self) -> str:
        """SHA-256 of the definition and the end of text."""
        return hashlib.sha256(f"{self.end_of_text}\n{self.definition}".encode()).hexdigest()

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """The special tokens that the tokenizer itself puts before a text, such as Llama's <s>."""
        encoding = self._tokenizer.encode("a", add_special_tokens=True)
        marks = encoding.special_tokens_mask
        return tuple(encoding.ids[: marks.index(0) if 0 in marks else 0])

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json` into a folder that exists."""
        (folder / TOKENIZER_FILE).write_text(self.definition, "utf-8")
        config = {"eos_token": self.end_of_text}
        (folder / CONFIG_FILE).write_text(json.dumps(config) + "\n", "utf-8")

    def encode(self, text: str | bytes) -> np.ndarray:
        """Returns the int32 token ids (tokens,) of `text`, without any special token."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """Returns the ids of several texts; the library takes all cores for them."""
        pieces, owners = [], []
        for owner, text in enumerate(texts):
            string = text if isinstance(text, str) else text.decode("utf-8")
            for piece in _pieces(string):
                pieces.append(piece)
                owners.append(owner)
        ids: list[list[np.ndarray]] = [[np.empty(0, np.int32)] for _ in texts]
        encodings = self._tokenizer.encode_batch_fast(pieces, add_special_tokens=False)
        for owner, encoding in zip(owners, encodings, strict=True):
            ids[owner].append(np.array(encoding.ids, np.int32))
        return [np.concatenate(parts) for parts in ids]

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of token ids, special tokens left out.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        ids = checked_ids(tokens, self.vocab_size, self.name)
        return self._tokenizer.decode(ids, skip_special_tokens=True)


def checked_ids(tokens: Iterable[int], vocab_size: int, name: str) -> list[int]:
    """Returns token ids as a list, checked before a library drops or misreads them.

    Args:
        tokens: ids in any iterable.
        vocab_size: of the tokenizer.
        name: of the tokenizer, for the message.

    Raises:
        ValueError: an id is not in 0 ... vocab_size - 1.
    """
    ids = [int(token) for token in tokens]
    for token in ids:
        if not 0 <= token < vocab_size:
            raise ValueError(
                f"token id {token} is not one of tokenizer {name}: ids are 0 ... {vocab_size - 1}. "
                "Decode with the tokenizer that the model was trained with."
            )
    return ids


def _find_end_of_text(vocabulary: dict[str, int], name: str, end_of_text: str | None) -> str:
    candidates = _KNOWN_END_OF_TEXT if end_of_text is None else (end_of_text,)
    for token in candidates:
        if token in vocabulary:
            return token
    raise DataError(
        f"{name}: no end of text ({', '.join(candidates)}) in the tokenizer's vocabulary. Name one "
        f'of its tokens in a {CONFIG_FILE} beside it, as {{"eos_token": "..."}}.'
    )


def _configured_end_of_text(path: Path) -> str | None:
    """The `eos_token` of a tokenizer_config.json, if that file is there and names one."""
    if not path.exists():
        return None
    try:
        token = json.loads(path.read_text("utf-8")).get("eos_token")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not a valid {CONFIG_FILE}: {error}") from error
    return token["content"] if isinstance(token, dict) else token


def _pieces(text: str) -> Iterator[str]:
    """Cuts a long text after the last end of line of every 2**20 characters, if there is one."""
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        end = text.rfind("\n", start, start + _PIECE_CHARACTERS) + 1 or start + _PIECE_CHARACTERS
        yield text[start:end]
        start = end
    yield text[start:]

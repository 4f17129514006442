"""SentencePiece tokenizers: a `.model` file. Needs the extra `sentencepiece`."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from training.data.huggingface_tokenizer import checked_ids
from training.errors import DataError, import_extra

MODEL_FILE = "tokenizer.model"


class SentencePieceTokenizer:
    """A tokenizer given as the content of a SentencePiece `.model` file.

    SentencePiece normalises text (spaces, compatibility forms), so a decoded text may differ from
    the encoded one.

    Args:
        model: content of the file.
        name: the name that it is found by.

    Raises:
        UserError: sentencepiece is not installed, the model is not valid, or has no end of text.

    Attributes:
        name, vocab_size, eos_id, checksum: see `training.data.tokenizers.Tokenizer`.
    """

    def __init__(self, model: bytes, name: str):
        sentencepiece = import_extra(
            "sentencepiece", f"{name}: SentencePiece tokenizers", extra="sentencepiece"
        )
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise DataError(
                f"{name}: not a valid SentencePiece model. Give the .model file that "
                "sentencepiece wrote."
            ) from error
        self.name = name
        self.model = model
        self.vocab_size = self._processor.get_piece_size()
        self.eos_id = self._processor.eos_id()
        if self.eos_id < 0:
            raise DataError(
                f"{name}: the SentencePiece model has no end of text. Train it with an eos_id."
            )

    @classmethod
    def from_file(cls, path: Path, name: str) -> "SentencePieceTokenizer":
        """Reads a `.model` file.

        Raises:
            DataError: it cannot be read or is not valid.
        """
        try:
            model = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read as a tokenizer: {error.strerror}") from error
        return cls(model, name)

    def __reduce__(self) -> tuple[type, tuple[bytes, str]]:
        return SentencePieceTokenizer, (self.model, self.name)

    @property
    def checksum(self) -> str:
        """SHA-256 of the model."""
        return hashlib.sha256(self.model).hexdigest()

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """The beginning of a text, if the model has such a token."""
        start = self._processor.bos_id()
        return () if start < 0 else (start,)

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.model` into a folder that exists."""
        (folder / MODEL_FILE).write_bytes(self.model)

    def encode(self, text: str | bytes) -> np.ndarray:
        """Returns the int32 token ids (tokens,) of `text`, without any control token."""
        string = text if isinstance(text, str) else text.decode("utf-8")
        return np.array(self._processor.encode(string, out_type=int), np.int32)

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """Returns the ids of several texts."""
        return [self.encode(text) for text in texts]

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of token ids, control tokens left out.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        ids = checked_ids(tokens, self.vocab_size, self.name)
        return self._processor.decode(ids)

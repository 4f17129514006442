"""Tokenizers: text to token ids and back; found by name, and stored with a run."""

import difflib
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from training.data.bpe import is_bpe, parse_size
from training.data.huggingface_tokenizer import TOKENIZER_FILE, HuggingFaceTokenizer
from training.data.sentencepiece_tokenizer import MODEL_FILE, SentencePieceTokenizer
from training.errors import DataError

_END_OF_TEXT = 256


class Tokenizer(Protocol):
    """What the data pipeline and the sampler need of a tokenizer.

    Attributes:
        name: the name that `get_tokenizer` finds it by.
        vocab_size: number of token ids, `eos_id` included; ids are 0 ... vocab_size - 1.
        eos_id: the id that separates documents.
        checksum: SHA-256 of everything that decides the ids of a text.
        prefix_ids: what models made elsewhere with this tokenizer expect before a text. `encode`
            leaves it out.
    """

    name: str
    vocab_size: int
    eos_id: int

    @property
    def checksum(self) -> str: ...

    @property
    def prefix_ids(self) -> tuple[int, ...]: ...

    def encode(self, text: str | bytes) -> np.ndarray:
        """Returns the int32 token ids (tokens,) of `text`, without any end-of-text."""
        ...

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """Returns what `encode` returns for each text, by several threads if that helps."""
        ...

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text of the token ids, end-of-text left out."""
        ...

    def save(self, folder: Path) -> None:
        """Writes what `stored_tokenizer` needs into a folder that exists."""
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
    prefix_ids: tuple[int, ...] = ()

    @property
    def checksum(self) -> str:
        """SHA-256 of the name: there is nothing else to it."""
        return hashlib.sha256(self.name.encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Writes nothing."""
        del folder

    def encode(self, text: str | bytes) -> np.ndarray:
        """Returns the bytes of a text as ids.

        Args:
            text: a string, encoded as UTF-8, or bytes, taken as they are.

        Returns:
            int32 (bytes,), values 0 ... 255.
        """
        data = text.encode("utf-8") if isinstance(text, str) else text
        return np.frombuffer(data, np.uint8).astype(np.int32)

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """Returns the ids of several texts."""
        return [self.encode(text) for text in texts]

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


def get_tokenizer(name: str) -> Tokenizer:
    """Returns the tokenizer of a name.

    Args:
        name: "bytes", the path of a `tokenizer.json` or of a SentencePiece `.model` file, or a
            folder that holds one. "bpe:SIZE" needs a corpus: see `training.data.corpus`.

    Raises:
        DataError: no tokenizer has this name (the message gives the nearest one), or its file
            cannot be read.
    """
    if name == ByteTokenizer.name:
        return ByteTokenizer()
    if is_bpe(name):
        parse_size(name)
        raise DataError(
            f"tokenizer {name!r} is trained on a corpus, and there is none here: give the "
            "tokenizer.json of the run that trained it."
        )
    path = Path(name).expanduser()
    if path.is_dir():
        path = _file_of_folder(path)
    if path.suffix == ".json" and path.exists():
        return HuggingFaceTokenizer.from_file(path, name)
    if path.suffix == ".model" and path.exists():
        return SentencePieceTokenizer.from_file(path, name)
    if path.suffix in (".json", ".model"):
        raise DataError(f"tokenizer {name!r}: no such file. Check the path.")
    known = (ByteTokenizer.name, "bpe:8192", TOKENIZER_FILE, MODEL_FILE)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    suggestion = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise DataError(
        f"unknown tokenizer {name!r}.{suggestion} Known tokenizers: bytes, bpe:SIZE (trained on "
        "the data), or the path of a tokenizer.json or of a SentencePiece .model file."
    )


def _file_of_folder(folder: Path) -> Path:
    """The tokenizer file in a folder; tokenizer.json first, as it says more."""
    for name in (TOKENIZER_FILE, MODEL_FILE):
        if (folder / name).exists():
            return folder / name
    raise DataError(
        f"tokenizer {str(folder)!r}: there is neither {TOKENIZER_FILE} nor {MODEL_FILE} in this "
        "folder. Give a model's folder, or the file itself."
    )


def stored_tokenizer(folder: Path, name: str) -> Tokenizer:
    """Returns the tokenizer that a run or prepared data was made with.

    Args:
        folder: that `Tokenizer.save` wrote to.
        name: of the tokenizer, as in the run's `config.json`.

    Raises:
        DataError: its file is missing or cannot be read.
    """
    if name == ByteTokenizer.name:
        return ByteTokenizer()
    path = _file_of_folder(folder)
    kind = HuggingFaceTokenizer if path.name == TOKENIZER_FILE else SentencePieceTokenizer
    return kind.from_file(path, name)

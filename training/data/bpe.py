"""`--tokenizer bpe:SIZE`: byte-level BPE trained on the user's own training text, and its cache.

And the byte tokenizer as such a definition, for model folders that other programs read.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from training.data.huggingface_tokenizer import HuggingFaceTokenizer
from training.errors import DataError

PREFIX = "bpe:"
END_OF_TEXT = "<|endoftext|>"
# 256 bytes and the end of text; every merge adds one.
SMALLEST_SIZE = 257
# The merges of the first gigabyte are those of a larger corpus for all that matters.
MAX_TRAINING_BYTES = 2**30
# Part of the cache's key: to be raised when the training below changes.
_RECIPE = 1


def is_bpe(name: str) -> bool:
    """Returns whether a tokenizer's name asks for a BPE trained on the corpus."""
    return name.startswith(PREFIX)


def parse_size(name: str) -> int:
    """Returns the vocabulary size of "bpe:SIZE".

    Raises:
        DataError: it is not a number, or less than 257.

    Example:
        >>> parse_size("bpe:8192")
        8192
    """
    size = name.removeprefix(PREFIX)
    if not size.isascii() or not size.isdecimal() or int(size) < SMALLEST_SIZE:
        raise DataError(
            f"tokenizer {name!r}: expected bpe:SIZE with SIZE at least {SMALLEST_SIZE} (256 bytes "
            "and the end of text), e.g. bpe:8192."
        )
    return int(size)


def train_bpe(texts: Iterable[bytes], size: int) -> str:
    """Trains a byte-level BPE. The same texts give the same tokenizer, whatever the threads.

    Args:
        texts: training documents, UTF-8; the first gigabyte of them is used.
        size: of the vocabulary; it becomes smaller where the texts have fewer pairs to merge.

    Returns:
        The content of its `tokenizer.json`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[END_OF_TEXT],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_first_gigabyte(texts), trainer)
    return tokenizer.to_str()


def _first_gigabyte(texts: Iterable[bytes]) -> Iterator[str]:
    room = MAX_TRAINING_BYTES
    for text in texts:
        if room <= 0:
            return
        yield text[:room].decode("utf-8", errors="ignore")
        room -= len(text)


def cache_folder() -> Path:
    """Returns where trained tokenizers are kept: $XDG_CACHE_HOME, by default ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "lowrank_optax" / "tokenizers"


def trained_tokenizer(
    name: str, texts: Iterable[bytes], checksums: Mapping[str, str], validation_fraction: float
) -> HuggingFaceTokenizer:
    """Returns the BPE of a corpus, trained now or found in the cache.

    Args:
        name: "bpe:SIZE".
        texts: the training documents, in order; read only if the tokenizer is not in the cache.
        checksums: of all files of the corpus, which with the fraction say what `texts` is.
        validation_fraction: of the corpus, held out.

    Raises:
        DataError: the name is wrong, or the cache cannot be read or written.
    """
    size = parse_size(name)
    identity = [_RECIPE, size, validation_fraction, sorted(checksums.items())]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    path = cache_folder() / f"bpe-{size}-{key[:32]}.json"
    if not path.exists():
        definition = train_bpe(texts, size)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(definition, "utf-8")
            temporary.replace(path)
        except OSError as error:
            raise DataError(
                f"{path.parent}: the trained tokenizer cannot be kept there: {error.strerror}. "
                "Give another folder in the environment variable XDG_CACHE_HOME."
            ) from error
    try:
        return HuggingFaceTokenizer(path.read_text("utf-8"), name, END_OF_TEXT)
    except (OSError, ValueError, DataError) as error:
        raise DataError(
            f"{path}: this trained tokenizer cannot be read: {error} Delete the file: it is then "
            "trained anew."
        ) from error


@functools.cache
def byte_tokenizer_definition() -> str:
    """The content of a tokenizer.json with the ids of `ByteTokenizer`.

    A BPE without merges: every byte is spelled as the character that GPT-2 gave it.

    Example:
        >>> tokenizer = Tokenizer.from_str(byte_tokenizer_definition())
        >>> tokenizer.encode("né").ids
        [110, 195, 169]
    """
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary = {_character(byte): byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = spell
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    assert tokenizer.token_to_id(END_OF_TEXT) == 256  # as ByteTokenizer has it
    return json.dumps(json.loads(tokenizer.to_str()))


def _character(byte: int) -> str:
    """GPT-2's character of a byte: itself where it is printed, the next unused one elsewhere."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printed += range(ord("®"), ord("ÿ") + 1)
    if byte in printed:
        return chr(byte)
    return chr(256 + [other for other in range(256) if other not in printed].index(byte))

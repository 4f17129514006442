"""`--tokenizer bpe:SIZE`: byte-level BPE trained on the user's own training text, and its cache."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from training.data.tokenizers import END_OF_TEXT, Tokenizer, parse_size
from training.errors import DataError
from training.files import cache_folder

# The merges of so much text are those of a larger corpus for all that matters.
MAX_TRAINING_CHARACTERS = 2**30
# Part of the cache's key: to be raised when the training below changes.
_RECIPE = 2


def train_bpe(texts: Iterable[str], size: int) -> str:
    """The `tokenizer.json` of a byte-level BPE of `size` tokens, of fewer where the texts have
    fewer pairs to merge.

    The first 2**30 characters of the texts are used. The same texts give the same tokenizer,
    whatever the threads.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[END_OF_TEXT],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_first(texts), trainer)
    return tokenizer.to_str()


def _first(texts: Iterable[str]) -> Iterator[str]:
    room = MAX_TRAINING_CHARACTERS
    for text in texts:
        if room <= 0:
            return
        yield text[:room]
        room -= len(text)


def trained_tokenizer(
    name: str, texts: Iterable[str], checksums: Mapping[str, str], validation_fraction: float
) -> Tokenizer:
    """The BPE "bpe:SIZE" of a corpus, trained now or found in the cache.

    Args:
        texts: the training documents, in order; read only if the tokenizer is not in the cache.
        checksums: of all files of the corpus, which with the fraction say what `texts` is.
    """
    size = parse_size(name)
    identity = [_RECIPE, size, validation_fraction, sorted(checksums.items())]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    path = cache_folder("tokenizers") / f"bpe-{size}-{key[:32]}.json"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(train_bpe(texts, size), "utf-8")
            temporary.replace(path)
        return Tokenizer(path.read_text("utf-8"), name, END_OF_TEXT)
    except (OSError, ValueError, DataError) as error:
        raise DataError(
            f"{path}: the trained tokenizer cannot be kept there: {error}. Delete the file if it "
            "is damaged, or name another folder in the environment variable XDG_CACHE_HOME."
        ) from error

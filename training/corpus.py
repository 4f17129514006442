"""The tokens of a run: documents read, split by file and tokenised once."""

import dataclasses

import numpy as np

from training.config import TrainingConfig
from training.data import describe, load_documents, split_documents, tokenize
from training.errors import as_user_error
from training.tokenizers import get_tokenizer

# Which files are held out does not depend on a run's seed: validation losses of different seeds
# are of the same text.
SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Training and validation tokens.

    Attributes:
        training: (tokens,) unsigned integers.
        validation: (tokens,) unsigned integers.
        vocab_size: of the tokenizer.
        checksum: SHA-256 of all documents.
        description: sizes, for people.
    """

    training: np.ndarray
    validation: np.ndarray
    vocab_size: int
    checksum: str
    description: str


def load_corpus(config: TrainingConfig) -> Corpus:
    """Reads, splits and tokenises `config.data`.

    Raises:
        UserError: for an unknown tokenizer or data that cannot be used, naming file and line.
    """
    with as_user_error():
        tokenizer = get_tokenizer(config.tokenizer)
        documents = load_documents(config.data)
        training, validation = split_documents(documents, config.validation_fraction, SPLIT_SEED)
        return Corpus(
            training=tokenize(training, tokenizer),
            validation=tokenize(validation, tokenizer),
            vocab_size=tokenizer.vocab_size,
            checksum=documents.checksum,
            description=f"{describe(training)} to train on, {describe(validation)} held out",
        )

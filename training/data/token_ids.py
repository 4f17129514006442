"""Token ids as they come out of a model: checked before a library drops or misreads them."""

from collections.abc import Iterable


def checked_ids(tokens: Iterable[int], vocab_size: int, name: str) -> list[int]:
    """Returns token ids as a list.

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

"""The byte tokenizer as a tokenizer.json, for model folders that other programs read."""

import functools
import json

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from training.data.bpe import END_OF_TEXT
from training.data.tokenizers import ByteTokenizer


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
    assert tokenizer.token_to_id(END_OF_TEXT) == ByteTokenizer.eos_id
    return json.dumps(json.loads(tokenizer.to_str()))


def _character(byte: int) -> str:
    """GPT-2's character of a byte: itself where it is printed, the next unused one elsewhere."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printed += range(ord("®"), ord("ÿ") + 1)
    if byte in printed:
        return chr(byte)
    return chr(256 + [other for other in range(256) if other not in printed].index(byte))

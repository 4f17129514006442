"""Tokenizers of the `tokenizers` library: text to token ids and back; found by name or in a folder.

A `tokenizer.json`, with `tokenizer_config.json` beside it for its end of text and its template of
conversations, says all of one.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from etils import epath
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from training.data.chat import CHAT_FILE, ChatTemplate, find_chat_template, text_of_token
from training.errors import DataError, nearest
from training.files import write_json, write_text

BPE = "bpe:"
# 256 bytes and the end of text; every merge adds one.
_SMALLEST_BPE = 257
END_OF_TEXT = "<|endoftext|>"
# How an end of text is called where no tokenizer_config.json says it.
_KNOWN_END_OF_TEXT = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[EOS]")
_FILE = "tokenizer.json"
_CONFIG_FILE = "tokenizer_config.json"
# The library keeps offsets and strings of every token of a call; longer texts are cut at the end
# of a line.
_PIECE_CHARACTERS = 2**20


class Tokenizer:
    """A tokenizer given as the text of a `tokenizer.json`.

    A special token spelled out in a text, such as "<|endoftext|>", is text like any other. Texts of
    more than 2**20 characters are cut after a line's end and tokenised in pieces. The end of text,
    which separates documents, is one of the usual ones if it is not given.

    Attributes:
        vocab_size: number of token ids, `eos_id` included; ids are 0 ... vocab_size - 1.
        eos_id: the id that separates documents.
        checksum: SHA-256 of everything that decides the ids of a text.
        prefix_ids: what the tokenizer itself puts before a text, such as Llama's <s>; `encode`
            leaves it out.
    """

    def __init__(
        self,
        definition: str,
        name: str,
        end_of_text: str | None = None,
        chat: ChatTemplate | None = None,
    ):
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
        known = _KNOWN_END_OF_TEXT if end_of_text is None else (end_of_text,)
        self.end_of_text = next((token for token in known if token in vocabulary), "")
        if not self.end_of_text:
            raise DataError(
                f"{name}: no end of text ({', '.join(known)}) in the tokenizer's vocabulary. Name "
                f'one of its tokens in a {_CONFIG_FILE} beside it, as {{"eos_token": "..."}}.'
            )
        encoding = self._tokenizer.encode("a", add_special_tokens=True)
        marks = encoding.special_tokens_mask
        self.name = name
        self.chat = chat
        self.definition = definition
        self.eos_id = vocabulary[self.end_of_text]
        self.vocab_size = max(vocabulary.values()) + 1
        self.prefix_ids = tuple(encoding.ids[: marks.index(0) if 0 in marks else 0])
        self.checksum = hashlib.sha256(f"{self.end_of_text}\n{definition}".encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json`, `tokenizer_config.json` and, if there is one, the chat template
        into a folder that exists."""
        write_text(folder / _FILE, self.definition)
        config = {"eos_token": self.end_of_text}
        if self.chat is not None:
            config = {**self.chat.tokens, **config}
            write_text(folder / CHAT_FILE, self.chat.source)
        write_json(folder / _CONFIG_FILE, config)

    def encode(self, text: str) -> np.ndarray:
        """Returns the int32 token ids (tokens,) of a text, without any special token."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str], *, special: bool = False) -> list[np.ndarray]:
        """The ids of several texts; the library takes all cores for them. With `special`, special
        tokens that are spelled out are meant, as by chat templates."""
        pieces = [list(_pieces(text)) for text in texts]
        flat = [piece for parts in pieces for piece in parts]
        self._tokenizer.encode_special_tokens = not special
        encodings = iter(self._tokenizer.encode_batch_fast(flat, add_special_tokens=False))
        return [
            np.concatenate([np.array(next(encodings).ids, np.int32) for _ in parts])
            for parts in pieces
        ]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of token ids, special tokens left out; what is not UTF-8 is U+FFFD. An id that
        is not in the vocabulary is a `ValueError`."""
        ids = [int(token) for token in tokens]
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise ValueError(
                    f"token id {token} is not one of tokenizer {self.name}: ids are 0 ... "
                    f"{self.vocab_size - 1}. Decode with the tokenizer that the model was trained "
                    "with."
                )
        return self._tokenizer.decode(ids, skip_special_tokens=True)


def _pieces(text: str) -> Iterator[str]:
    """Cuts a long text after the last end of line of every 2**20 characters, if there is one."""
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        end = text.rfind("\n", start, start + _PIECE_CHARACTERS) + 1 or start + _PIECE_CHARACTERS
        yield text[start:end]
        start = end
    yield text[start:]


class ByteTokenizer(Tokenizer):
    """Every UTF-8 byte is a token; id 256 is the end of a text.

    As a `tokenizer.json` a BPE without merges, in which every byte is spelled as the character that
    GPT-2 gave it: itself, or the next one beyond all bytes for a byte that is not printed.

    >>> tokenizer = ByteTokenizer()
    >>> tokenizer.encode("né").tolist()
    [110, 195, 169]
    >>> tokenizer.decode([110, 195, 169, tokenizer.eos_id])
    'né'
    """

    def __init__(self, chat: ChatTemplate | None = None) -> None:
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        others = iter(sorted(character for character in alphabet if ord(character) > 255))
        vocabulary = {chr(i) if chr(i) in alphabet else next(others): i for i in range(256)}
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
        super().__init__(json.dumps(json.loads(tokenizer.to_str())), "bytes", chat=chat)

    def encode_batch(self, texts: Sequence[str], *, special: bool = False) -> list[np.ndarray]:
        """Returns the ids of several texts; far sooner than the library does."""
        if special:
            return super().encode_batch(texts, special=True)
        return [np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32) for text in texts]


def is_bpe(name: str) -> bool:
    """Returns whether a tokenizer's name, "bpe:SIZE", asks for one trained on the corpus."""
    return name.startswith(BPE)


def parse_size(name: str) -> int:
    """The vocabulary size of "bpe:SIZE", at least 257.

    >>> parse_size("bpe:8192")
    8192
    """
    size = name.removeprefix(BPE)
    if not size.isascii() or not size.isdecimal() or int(size) < _SMALLEST_BPE:
        raise DataError(
            f"tokenizer {name!r}: expected bpe:SIZE with SIZE at least {_SMALLEST_BPE} (256 bytes "
            "and the end of text), e.g. bpe:8192."
        )
    return int(size)


def get_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a name: "bytes", or the path of a `tokenizer.json` or of a folder that holds
    one.

    "bpe:SIZE" needs a corpus: see `training.data.bpe`.
    """
    if name == "bytes":
        return ByteTokenizer()
    if is_bpe(name):
        parse_size(name)
        raise DataError(
            f"tokenizer {name!r} is trained on a corpus, and there is none here: give the "
            "tokenizer.json of the run that trained it."
        )
    path = Path(name).expanduser()
    if path.is_dir():
        return stored_tokenizer(path, name)
    if path.suffix == ".json":
        return _read(path, name)
    raise DataError(f"unknown tokenizer {name!r}.{nearest(name, ['bytes', 'bpe:8192', _FILE])}")


def stored_tokenizer(folder: epath.Path | Path, name: str) -> Tokenizer:
    """The tokenizer in the folder of a run, of prepared data or of a model, by its name there."""
    if name == "bytes":
        return ByteTokenizer(find_chat_template(folder, {"eos_token": END_OF_TEXT}))
    return _read(folder / _FILE, name)


def _read(path: epath.Path | Path, name: str) -> Tokenizer:
    config, fields = path.with_name(_CONFIG_FILE), {}
    try:
        definition = path.read_text("utf-8")
        if config.exists():
            fields = json.loads(config.read_text("utf-8"))
        end_of_text = text_of_token(fields.get("eos_token"))
        chat = find_chat_template(path.parent, fields)
    except FileNotFoundError as error:
        raise DataError(
            f"tokenizer {name!r}: there is no {path}. A SentencePiece model alone (a .model file) "
            "becomes one with transformers: AutoTokenizer.from_pretrained(FOLDER)"
            ".save_pretrained(FOLDER)."
        ) from error
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{path} or {config.name}: cannot be read: {error}") from error
    return Tokenizer(definition, name, end_of_text, chat)

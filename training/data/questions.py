"""Questions with answers, and conversations: rows of JSON lines or Parquet -> examples.

{"question": "...", "answer": "... #### 72"}
{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.data.chat import ASSISTANT, Message
from training.data.documents import STDLIB
from training.data.tables import field_names, is_table, read_rows, read_table
from training.errors import DataError, UserError

_EXPECTED = '{"question": "...", "answer": "... #### 72"}'
_MESSAGES = '{"messages": [{"role": "...", "content": "..."}, ...]}'


@dataclasses.dataclass(frozen=True)
class Example:
    """One row of a file."""

    question: str  # not blank; of a conversation the user's last message
    answer: str  # not blank; in GSM-8k the solution, which ends in "#### number"
    where: str  # its file and row, for messages
    earlier: tuple[Message, ...] = ()  # the messages of a conversation before the question

    @property
    def messages(self) -> list[Message]:
        """All of it as a conversation."""
        question = {"role": "user", "content": self.question}
        return [*self.earlier, question, {"role": ASSISTANT, "content": self.answer}]


def has_questions(path: Path) -> bool:
    """Whether data are questions rather than text: rows without the field `text`.

    What is not there counts as questions too, for `read_examples` to say so.
    """
    if str(path) == STDLIB:
        return False
    if not path.exists() and not any(character in str(path) for character in "*?[:"):
        return True
    return path.is_file() and is_table(path) and "text" not in field_names(path)


def has_messages(path: Path) -> bool:
    """Whether the rows of a file of questions are conversations."""
    return path.is_file() and is_table(path) and "messages" in field_names(path)


def read_examples(path: Path) -> list[Example]:
    """Reads a file of questions and answers, or of conversations: JSON lines, compressed if its
    name ends in ".gz", or Parquet.

    A `DataError` names the file and, for a single text, the row: one without a text in `question`
    or `answer`, or whose `messages` do not end with these two.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: no such file. Give a file of JSON lines such as {_EXPECTED}; `train.py "
            "problems` writes some."
        )
    if not is_table(path):
        raise DataError(
            f"{path}: questions are read from files that end in .jsonl, .jsonl.gz, .json.gz or "
            f".parquet. Give JSON lines such as {_EXPECTED}, or rename it if it is one of these."
        )
    if has_messages(path):
        examples = [_conversation(f"{path}, row {row}", fields) for row, fields in read_rows(path)]
    else:
        rows = read_table(path, ("question", "answer"))
        examples = [
            Example(question, answer, f"{path}, row {row}")
            for row, (question, answer) in enumerate(rows, 1)
        ]
    for example in examples:
        if not example.question.strip() or not example.answer.strip():
            raise DataError(f"{example.where}: a question or answer is empty. Remove the row.")
    if not examples:
        raise DataError(f"{path}: it has no lines. Give JSON lines such as {_EXPECTED}.")
    return examples


def _conversation(where: str, fields: Mapping[str, Any]) -> Example:
    messages = fields.get("messages")
    try:
        pairs = [(message["role"], message["content"]) for message in messages or ()]
        is_right = [role for role, _ in pairs[-2:]] == ["user", ASSISTANT]
        is_right &= all(isinstance(text, str) for pair in pairs for text in pair)
    except (TypeError, KeyError):
        is_right = False
    if not is_right:
        raise DataError(
            f"{where}: expected {_MESSAGES}, all of them texts, the user's last one and the "
            "assistant's answer at the end. Change or remove the row."
        )
    *earlier, (_, question), (_, answer) = pairs
    before = tuple({"role": role, "content": content} for role, content in earlier)
    return Example(question, answer, where, before)


def split_examples(
    examples: Sequence[Example], validation_fraction: float
) -> tuple[list[Example], list[Example]]:
    """Splits examples for training and for validation, by a hash of their (first) questions.

    Neither the order of the lines nor the machine matters, and a question is never in both parts: a
    single one is a `UserError`.
    """
    ranks = {_rank(example): None for example in examples}
    count = min(max(1, round(validation_fraction * len(ranks))), len(ranks) - 1)
    if count < 1:
        raise UserError(
            f"{examples[0].where}: a single question cannot be both trained and validated on: give "
            "more, or a file with --validation"
        )
    held_out = set(sorted(ranks)[:count])
    training = [example for example in examples if _rank(example) not in held_out]
    return training, [example for example in examples if _rank(example) in held_out]


def _rank(example: Example) -> bytes:
    """Of what comes before the first answer."""
    asked = itertools.takewhile(lambda message: message["role"] != ASSISTANT, example.messages)
    return hashlib.sha256("\n".join(message["content"] for message in asked).encode()).digest()

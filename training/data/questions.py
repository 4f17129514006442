"""Questions with answers, and the prompts that put them to a model.

{"question": "...", "answer": "... #### 72"}, as JSON lines -> examples -> tokens
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.data.documents import STDLIB
from training.data.tables import field_names, is_json_lines, read_table
from training.data.tokenizers import Tokenizer
from training.errors import DataError, UserError

PLACEHOLDER = "{question}"
DEFAULT_TEMPLATE = "Question: {question}\nAnswer:\n"

# In a fine-tuned model's folder: how it was asked.
PROMPT_FILE = "prompt.json"

_EXPECTED = '{"question": "...", "answer": "... #### 72"}'


@dataclasses.dataclass(frozen=True)
class Example:
    """One row of a file.

    Attributes:
        question: not blank.
        answer: not blank; in GSM-8k the solution, which ends in "#### number".
        where: its file and row, for messages.
    """

    question: str
    answer: str
    where: str


def has_questions(path: Path) -> bool:
    """Whether data are questions rather than text: JSON lines without the field `text`.

    What is not there counts as questions too, for `read_examples` to say so.
    """
    if str(path) == STDLIB:
        return False
    if not path.exists() and not any(character in str(path) for character in "*?[:"):
        return True
    return path.is_file() and is_json_lines(path) and "text" not in field_names(path)


def read_examples(path: Path) -> list[Example]:
    """Reads a file of questions and answers.

    Args:
        path: JSON lines, compressed if its name ends in ".gz".

    Raises:
        DataError: the file cannot be read or has no examples, or one without a text in `question`
            or `answer`; the message names the file and, for a single text, the row.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: no such file. Give a file of JSON lines such as {_EXPECTED}; `train.py "
            "problems` writes some."
        )
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


def split_examples(
    examples: Sequence[Example], validation_fraction: float
) -> tuple[list[Example], list[Example]]:
    """Splits examples for training and for validation, by a hash of their questions.

    Neither the order of the lines nor the machine matters, and a question is never in both parts.

    Raises:
        UserError: there are fewer than two different questions.
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
    return hashlib.sha256(example.question.encode()).digest()


class EncodedExample(NamedTuple):
    """A prompt and its answer.

    Attributes:
        tokens: int32 (prompt + answer,), the end of text the last one.
        answer_start: index of the answer's first token, at least 1.
        where: file and row, for messages.
    """

    tokens: np.ndarray
    answer_start: int
    where: str


@dataclasses.dataclass(frozen=True)
class Prompt:
    """How questions are put to a model.

    Prompt and answer are tokenised one by one, so that a prompt has the same tokens when the answer
    is learnt and when it is asked for.

    Attributes:
        template: text with the place {question}.
        prefix_ids: tokens before the text.

    Raises:
        UserError: the template has no such place.

    Example:
        >>> Prompt("Q: {question} A:").text("1+1?")
        'Q: 1+1? A:'
    """

    template: str = DEFAULT_TEMPLATE
    prefix_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if PLACEHOLDER not in self.template:
            raise UserError(
                f"--template {self.template!r} has no {PLACEHOLDER}: write {PLACEHOLDER} where the "
                f"question belongs, e.g. --template {DEFAULT_TEMPLATE!r}"
            )

    @classmethod
    def of_option(cls, option: str, prefix_ids: tuple[int, ...]) -> "Prompt":
        """The prompt of `--template`, in which \\n, as a shell gives it, ends a line."""
        return cls(option.replace("\\n", "\n"), prefix_ids)

    def text(self, question: str) -> str:
        """The prompt of a question. Braces in the question are text like any other."""
        return self.template.replace(PLACEHOLDER, question)

    def encode(self, questions: Sequence[str], tokenizer: Tokenizer) -> list[np.ndarray]:
        """The tokens int32 (prompt,) of the prompts."""
        prefix = np.array(self.prefix_ids, np.int32)
        texts = tokenizer.encode_batch([self.text(question) for question in questions])
        return [np.concatenate([prefix, text]) for text in texts]

    def encode_examples(
        self, examples: Sequence[Example], tokenizer: Tokenizer
    ) -> list[EncodedExample]:
        """The tokens of prompts and answers, each with the end of text.

        Raises:
            UserError: a prompt without tokens, which a model cannot be asked.
        """
        prompts = self.encode([example.question for example in examples], tokenizer)
        answers = tokenizer.encode_batch([example.answer for example in examples])
        end = np.array([tokenizer.eos_id], np.int32)
        encoded = []
        for example, prompt, answer in zip(examples, prompts, answers, strict=True):
            if not len(prompt):
                raise UserError(f"{example.where}: its question has no tokens. Remove it.")
            tokens = np.concatenate([prompt, answer, end])
            encoded.append(EncodedExample(tokens, len(prompt), example.where))
        return encoded

    def save(self, folder: Path) -> None:
        """Writes prompt.json into a model's folder."""
        fields = {"template": self.template, "prefix_ids": self.prefix_ids}
        (folder / PROMPT_FILE).write_text(json.dumps(fields) + "\n", "utf-8")


def stored_prompt(folder: Path) -> Prompt | None:
    """The prompt that a model was fine-tuned with; None if its folder does not say.

    Raises:
        UserError: its prompt.json is not what `Prompt.save` writes.
    """
    path = folder / PROMPT_FILE
    if not path.exists():
        return None
    try:
        fields = json.loads(path.read_text("utf-8"))
        return Prompt(str(fields["template"]), tuple(map(int, fields["prefix_ids"])))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is not valid ({error!r}): remove it and give the template with --template"
        ) from error

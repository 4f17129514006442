"""From questions and answers to tokens: the prompt template, and where the answer begins."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.data.questions import Example
from training.data.tokenizers import Tokenizer
from training.errors import UserError

PLACEHOLDER = "{question}"
DEFAULT_TEMPLATE = "Question: {question}\nAnswer:\n"

# In a fine-tuned model's folder: how it was asked.
PROMPT_FILE = "prompt.json"


class EncodedExample(NamedTuple):
    """A prompt and its answer.

    Attributes:
        tokens: int32 (prompt + answer,), the end of text the last one.
        answer_start: index of the answer's first token, at least 1.
        where: file and line, for messages.
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
                raise UserError(f"{example.where}: its question has no tokens. Remove the line.")
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

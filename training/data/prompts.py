"""How questions are put to a model: examples -> tokens, and which of them are learnt."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from etils import epath

from training.data.chat import CHAT_FILE
from training.data.questions import Example, has_messages
from training.data.tokenizers import Tokenizer
from training.errors import UserError
from training.files import write_json

PLACEHOLDER = "{question}"
DEFAULT_TEMPLATE = "Question: {question}\nAnswer:\n"
CHAT = "chat"  # in place of a template

# In a fine-tuned model's folder: how it was asked.
PROMPT_FILE = "prompt.json"


class EncodedExample(NamedTuple):
    """A prompt and its answer, or a conversation."""

    tokens: np.ndarray  # int32 (tokens,)
    learnt: np.ndarray  # bool (tokens,), at those of answers; not at the first
    where: str  # file and row, for messages


@dataclasses.dataclass(frozen=True)
class Prompt:
    """How questions are put to a model.

    Prompt and answer are tokenised one by one, so that a prompt has the same tokens when the answer
    is learnt and when it is asked for.

    >>> Prompt("Q: {question} A:").text("1+1?")
    'Q: 1+1? A:'
    """

    # text with the place {question}; or "chat", for the tokenizer's chat template
    template: str = DEFAULT_TEMPLATE
    prefix_ids: tuple[int, ...] = ()  # tokens before the text; a chat template writes its own

    def __post_init__(self) -> None:
        if PLACEHOLDER not in self.template and self.template != CHAT:
            raise UserError(
                f"--template {self.template!r} has no {PLACEHOLDER}: write {PLACEHOLDER} where the "
                f"question belongs, e.g. --template {DEFAULT_TEMPLATE!r}, or --template {CHAT} for "
                "the tokenizer's chat template"
            )

    def text(self, question: str) -> str:
        """The prompt of a question. Braces in the question are text like any other."""
        return self.template.replace(PLACEHOLDER, question)

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer) -> list[np.ndarray]:
        """The tokens int32 (prompt,) before the (last) answers; raises as `encode_examples`."""
        return [np.concatenate(parts[:-1]) for parts in self._parts(examples, tokenizer, ask=True)]

    def encode_examples(
        self, examples: Sequence[Example], tokenizer: Tokenizer
    ) -> list[EncodedExample]:
        """The tokens of prompts and answers. What is learnt of an answer ends with the end of text;
        the last one gets it where the chat template writes none.

        A `UserError` for a prompt without tokens, which a model cannot be asked, or a conversation
        without a chat template, or one that the template cannot put.
        """
        encoded = []
        all_parts = self._parts(examples, tokenizer, ask=False)
        for example, parts in zip(examples, all_parts, strict=True):
            if tokenizer.eos_id not in parts[-1]:
                parts[-1] = np.append(parts[-1], np.int32(tokenizer.eos_id))
            learnt = [np.zeros(len(part), bool) for part in parts]
            for part, mask in zip(parts[1::2], learnt[1::2], strict=True):
                ends = np.flatnonzero(part == tokenizer.eos_id)
                mask[: ends[-1] + 1 if len(ends) else len(part)] = True
            tokens = np.concatenate(parts)
            encoded.append(EncodedExample(tokens, np.concatenate(learnt), example.where))
        return encoded

    def _parts(
        self, examples: Sequence[Example], tokenizer: Tokenizer, *, ask: bool
    ) -> Iterator[list[np.ndarray]]:
        """Of every example the tokens that are read and said in turn; the last said are none of a
        question that is asked."""
        turns = [self._turns(example, tokenizer, ask=ask) for example in examples]
        texts = [text for parts in turns for text in parts]
        tokens = iter(tokenizer.encode_batch(texts, special=self.template == CHAT))
        prefix = np.array(() if self.template == CHAT else self.prefix_ids, np.int32)
        for example, parts in zip(examples, turns, strict=True):
            first, *rest = [next(tokens) for _ in parts]
            if not len(prefix) + len(first):
                raise UserError(f"{example.where}: its question has no tokens. Remove it.")
            yield [np.concatenate([prefix, first]), *rest]

    def _turns(self, example: Example, tokenizer: Tokenizer, *, ask: bool) -> list[str]:
        if self.template != CHAT and example.earlier:
            raise UserError(
                f"{example.where}: --template {self.template!r} has no place for messages before "
                f"the question: give --template {CHAT}, for the tokenizer's chat template"
            )
        if self.template != CHAT:
            return [self.text(example.question), "" if ask else example.answer]
        if tokenizer.chat is None:
            raise UserError(
                f"{example.where}: the tokenizer of --model has no chat template, by which "
                f"messages are put: add it as {CHAT_FILE} beside the model's tokenizer.json, e.g. "
                "that of its chat version"
            )
        messages = example.messages[:-1] if ask else example.messages
        return tokenizer.chat.turns(messages, example.where)

    def save(self, folder: Path) -> None:
        """Writes prompt.json into a model's folder."""
        write_json(folder / PROMPT_FILE, dataclasses.asdict(self))


def stored_prompt(folder: epath.Path | Path) -> Prompt | None:
    """The prompt that a model was fine-tuned with; None if its folder does not say."""
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


def prompt_for(path: Path, template: str | None, prompt: Prompt) -> Prompt:
    """How the questions of a file are put: by `--template`, in which \\n, as a shell gives it, ends
    a line; without one by the model's prompt, and conversations by the chat template."""
    if template is None:
        return Prompt(CHAT, prompt.prefix_ids) if has_messages(path) else prompt
    return Prompt(template.replace("\\n", "\n"), prompt.prefix_ids)

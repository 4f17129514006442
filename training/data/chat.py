"""Conversations as a model expects them: the chat template of its tokenizer.

A template is Jinja, in a Hugging Face folder's chat_template.jinja or in the field chat_template of
its tokenizer_config.json. It is rendered in a sandbox, as it may come from anywhere.

Reference: https://huggingface.co/docs/transformers/chat_templating_writing
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from training.errors import DataError

CHAT_FILE = "chat_template.jinja"
ASSISTANT = "assistant"

# {"role": "user", "content": "..."}
Message = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """The text of a conversation.

    >>> chat = ChatTemplate("{% for m in messages %}<{{ m.role }}> {{ m.content }}{% endfor %}")
    >>> chat.render([{"role": "user", "content": "1+1?"}])
    '<user> 1+1?'
    """

    source: str  # Jinja
    # texts of special tokens that it may write, as bos_token and eos_token
    tokens: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def _template(self) -> Any:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> None:
            raise TemplateError(message)

        # As templates are written for. There is no strftime_now, with which they would make other
        # tokens every day: they have a fixed date for that case.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
        return environment.from_string(self.source, {"raise_exception": refuse})

    def render(self, messages: Sequence[Message], *, ask: bool = False) -> str:
        """The text of messages, from the beginning of a conversation; with `ask` the beginning of
        the assistant's next message follows."""
        values = {"tools": None, "documents": None, **self.tokens}
        return self._template.render(messages=messages, add_generation_prompt=ask, **values)

    def turns(self, messages: Sequence[Message], where: str) -> list[str]:
        """The text of a conversation in parts: what is read, what the assistant says, and so on.
        Where the last message is not the assistant's, what it says is the empty text.

        A `DataError` if the template cannot render them, or does not render a beginning of the
        conversation as it renders it with what follows.
        """
        answers = [i for i, message in enumerate(messages) if message["role"] == ASSISTANT]
        if not messages or messages[-1]["role"] != ASSISTANT:
            answers.append(len(messages))
        parts: list[str] = []
        done = ""
        for answer in answers:
            try:
                asked = self.render(messages[:answer], ask=True)
                said = self.render(messages[: answer + 1]) if answer < len(messages) else asked
            # Whatever a program that came with the model may raise.
            except Exception as error:
                raise DataError(
                    f"{where}: the tokenizer's chat template refuses it: {error}. Change the row, "
                    f"or the template: a {CHAT_FILE} beside tokenizer.json takes its place."
                ) from error
            if not (asked.startswith(done) and said.startswith(asked)):
                raise DataError(
                    f"{where}: the tokenizer's chat template writes its beginning otherwise once "
                    "more messages follow, so that no part of it is the assistant's alone. Cut the "
                    f"row after the first answer, or put another template into a {CHAT_FILE} "
                    "beside tokenizer.json."
                )
            parts += [asked.removeprefix(done), said.removeprefix(asked)]
            done = said
        return parts


def find_chat_template(folder: epath.Path | Path, config: Mapping[str, Any]) -> ChatTemplate | None:
    """The chat template of a tokenizer, if it has one, by its folder and tokenizer_config.json."""
    source = config.get("chat_template")
    if isinstance(source, list):  # several by name
        source = {each["name"]: each["template"] for each in source}.get("default")
    if (folder / CHAT_FILE).exists():
        source = (folder / CHAT_FILE).read_text("utf-8")
    tokens = {name: text_of_token(config.get(name)) for name in ("bos_token", "eos_token")}
    known = {name: text for name, text in tokens.items() if text is not None}
    return None if source is None else ChatTemplate(source, known)


def text_of_token(entry: Any) -> str | None:
    """The text of a token of tokenizer_config.json, where some are objects with a `content`."""
    return entry["content"] if isinstance(entry, dict) else entry

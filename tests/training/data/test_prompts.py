"""Prompts: the template, the tokens before it, where answers are, and conversations."""

import json
from pathlib import Path

import numpy as np
import pytest
from question_files import BOS_ID, EOS_ID, character_tokenizer

from training.data.chat import ChatTemplate
from training.data.prompts import CHAT, Prompt, prompt_for, stored_prompt
from training.data.questions import Example
from training.data.tokenizers import ByteTokenizer, Tokenizer, get_tokenizer
from training.errors import DataError, UserError

BYTES = ByteTokenizer()

# Answers end with the end of text, as those of most chat models do, and a line that nobody says.
TEMPLATE = """{{ bos_token }}
{%- for message in messages %}
    {%- if message.role == "system" and not loop.first %}
        {{- raise_exception("a system message must come first") }}
    {%- endif %}
    {{- message.role[0] + ">" + message.content + eos_token + "\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{ "a>" }}{% endif %}
"""
CONVERSATION = Example(
    "3?", "4", "row 1", ({"role": "user", "content": "1?"}, {"role": "assistant", "content": "2"})
)


def chatting(source=TEMPLATE):
    chat = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})
    return Tokenizer(character_tokenizer(), "characters", "</s>", chat)


def test_the_question_goes_where_the_template_says():
    prompt = Prompt("Q: {question} {other}\nA: ")
    assert prompt.text("{x} and {question}?") == "Q: {x} and {question}? {other}\nA: "


def test_a_backslash_n_of_the_command_line_ends_a_line():
    prompt = prompt_for(Path("a.jsonl"), r"{question}\nA:\n", Prompt(prefix_ids=(7,)))
    assert prompt == Prompt("{question}\nA:\n", (7,))


def test_a_template_without_a_place_for_the_question_is_refused():
    with pytest.raises(UserError, match=r"--template 'Q: {Question}' has no {question}: write"):
        Prompt("Q: {Question}")


def test_an_example_is_prompt_answer_and_end():
    prompt = Prompt("Q {question} A ", prefix_ids=(7,))
    example = Example("1+1?", "2", "line 1")
    (encoded,) = prompt.encode_examples([example], BYTES)
    assert encoded.tokens.tolist() == [7, *b"Q 1+1? A 2", 256]
    assert encoded.tokens.dtype == np.int32
    (asked,) = prompt.encode([example], BYTES)
    assert len(asked) == len("Q 1+1? A ") + 1
    assert asked.tolist() == encoded.tokens[~encoded.learnt].tolist()
    assert encoded.learnt.tolist() == [False] * len(asked) + [True, True]


def test_a_prompt_without_tokens_is_refused():
    with pytest.raises(UserError, match="line 1: its question has no tokens"):
        Prompt("{question}").encode_examples([Example("", "2", "line 1")], BYTES)


def test_the_prefix_is_what_the_tokenizer_itself_puts_before_a_text():
    tokenizer = Tokenizer(character_tokenizer(), "characters")
    assert (tokenizer.prefix_ids, tokenizer.eos_id) == ((BOS_ID,), EOS_ID)
    assert BYTES.prefix_ids == ()


def test_a_models_folder_keeps_its_prompt(tmp_path):
    assert stored_prompt(tmp_path) is None
    prompt = Prompt("Frage: {question}\n", (3, 4))
    prompt.save(tmp_path)
    assert stored_prompt(tmp_path) == prompt
    (tmp_path / "prompt.json").write_text('{"template": "{question}"}')
    with pytest.raises(UserError, match=r"prompt.json is not valid .*prefix_ids.*--template"):
        stored_prompt(tmp_path)


def test_what_is_learnt_of_a_conversation_is_what_the_assistant_says():
    tokenizer = chatting()
    (encoded,) = Prompt(CHAT, (7,)).encode_examples([CONVERSATION], tokenizer)
    tokens, end = encoded.tokens, np.array([EOS_ID])
    assert tokens[0] == BOS_ID
    assert tokenizer.decode(tokens) == "u>1?\na>2\nu>3?\na>4\n"
    assert (tokens == EOS_ID).sum() == 4
    said = np.concatenate([tokenizer.encode("2"), end, tokenizer.encode("4"), end])
    np.testing.assert_array_equal(tokens[encoded.learnt], said)
    (asked,) = Prompt(CHAT).encode([CONVERSATION], tokenizer)
    np.testing.assert_array_equal(asked, tokens[: len(asked)])
    assert tokens[len(asked) :].tolist() == [
        *tokenizer.encode("4"),
        EOS_ID,
        *tokenizer.encode("\n"),
    ]


def test_an_answer_whose_template_ends_it_with_no_end_of_text_gets_one():
    without = "{% for m in messages %}{{ m.role[0] + m.content }}{% endfor %}"
    (encoded,) = Prompt(CHAT).encode_examples([Example("1?", "2", "")], chatting(without))
    assert chatting().decode(encoded.tokens) == "u1?a2"
    assert encoded.tokens[encoded.learnt].tolist()[-1] == EOS_ID


def test_special_tokens_in_a_question_are_text_unless_a_chat_template_puts_it():
    example, tokenizer = Example("</s>", "2", ""), chatting()
    assert EOS_ID not in Prompt("{question}").encode([example], tokenizer)[0]
    assert (Prompt(CHAT).encode([example], tokenizer)[0] == EOS_ID).sum() == 2


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (BYTES, "row 1: the tokenizer of --model has no chat template.*chat_template.jinja beside"),
        (chatting("{{ raise_exception('no') }}"), "row 1: .*chat template refuses it: no. Change"),
        (chatting("{% if %}"), "row 1: the tokenizer's chat template refuses it: Expected an expr"),
        (
            chatting("{{ messages | length }}{{ messages[-1].content }}"),
            "row 1: the tokenizer's chat template writes its beginning otherwise once more",
        ),
    ],
)
def test_a_conversation_that_cannot_be_put_is_explained(tokenizer, message):
    with pytest.raises((UserError, DataError), match=message):
        Prompt(CHAT).encode_examples([CONVERSATION], tokenizer)


def test_earlier_messages_need_a_chat_template():
    with pytest.raises(UserError, match=r"row 1: --template 'Q {question}' has no place for mess"):
        Prompt("Q {question}").encode_examples([CONVERSATION], chatting())


@pytest.mark.parametrize("where", ["config", "list", "file"])
def test_a_tokenizers_folder_keeps_its_chat_template(tmp_path, where):
    given, again = tmp_path / "given", tmp_path / "again"
    given.mkdir()
    again.mkdir()
    (given / "tokenizer.json").write_text(character_tokenizer())
    fields = {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    if where == "file":
        (given / "chat_template.jinja").write_text(TEMPLATE)
        fields["chat_template"] = "another"
    else:
        named = [{"name": "tools", "template": "no"}, {"name": "default", "template": TEMPLATE}]
        fields["chat_template"] = named if where == "list" else TEMPLATE
    (given / "tokenizer_config.json").write_text(json.dumps(fields))
    tokenizer = get_tokenizer(str(given))
    tokenizer.save(again)
    assert tokenizer.chat == get_tokenizer(str(again)).chat == chatting().chat

"""Prompts: the template, the tokens before it, and where an answer begins."""

import json

import numpy as np
import pytest
from question_files import BOS_ID, EOS_ID, character_tokenizer, sums, write_questions

from training.data.questions import Example, Prompt, read_examples, stored_prompt
from training.data.tokenizers import ByteTokenizer, Tokenizer
from training.errors import DataError, UserError

BYTES = ByteTokenizer()


def test_the_question_goes_where_the_template_says():
    prompt = Prompt("Q: {question} {other}\nA: ")
    assert prompt.text("{x} and {question}?") == "Q: {x} and {question}? {other}\nA: "


def test_a_backslash_n_of_the_command_line_ends_a_line():
    assert Prompt.of_option(r"{question}\nA:\n", ()).template == "{question}\nA:\n"


def test_a_template_without_a_place_for_the_question_is_refused():
    with pytest.raises(UserError, match=r"--template 'Q: {Question}' has no {question}: write"):
        Prompt("Q: {Question}")


def test_an_example_is_prompt_answer_and_end():
    prompt = Prompt("Q {question} A ", prefix_ids=(7,))
    (encoded,) = prompt.encode_examples([Example("1+1?", "2", "line 1")], BYTES)
    assert encoded.tokens.tolist() == [7, *b"Q 1+1? A 2", 256]
    assert encoded.tokens.dtype == np.int32
    assert encoded.answer_start == len("Q 1+1? A ") + 1
    (asked,) = prompt.encode(["1+1?"], BYTES)
    assert asked.tolist() == encoded.tokens[: encoded.answer_start].tolist()


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


def test_examples_are_read_with_their_rows(tmp_path):
    path = write_questions(tmp_path / "a.jsonl", sums(2))
    first, second = read_examples(path)
    assert first == Example("0+0?", "<<0+0=0>>\n#### 0", f"{path}, row 1")
    assert second.where == f"{path}, row 2"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"a.jsonl, row 2: cannot be read: .* Repair or remove"),
        ('{"question": "1?"}', r"a.jsonl, row 2: the field \"answer\" is missing"),
        (
            '{"question": 1, "answer": "1"}',
            r"the field \"question\" is of type int, but must be of type str",
        ),
        ('{"question": "1?", "answer": " "}', r"a.jsonl, row 2: a question or answer is empty"),
        ('{"question": "\\ud800", "answer": "1"}', r"row 2: cannot be read: .*can't encode"),
    ],
)
def test_a_row_that_cannot_be_used_is_explained(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(sums(1)[0]) + "\n" + line + "\n")
    with pytest.raises(DataError, match=message):
        read_examples(path)


def test_a_missing_or_empty_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none.jsonl: no such file. Give a file of JSON lines"):
        read_examples(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"empty.jsonl: it has no lines"):
        read_examples(tmp_path / "empty.jsonl")

"""Prompts: the template, the tokens before it, and where an answer begins."""

import json

import numpy as np
import pytest
from question_files import BOS_ID, EOS_ID, character_tokenizer, sums, write_questions

from training.data.bpe import byte_tokenizer_definition
from training.data.huggingface_tokenizer import HuggingFaceTokenizer
from training.data.prompts import Prompt, stored_prompt
from training.data.questions import Example, read_examples
from training.data.tokenizers import ByteTokenizer
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
    tokenizer = HuggingFaceTokenizer(character_tokenizer(), "characters")
    assert (tokenizer.prefix_ids, tokenizer.eos_id) == ((BOS_ID,), EOS_ID)
    assert HuggingFaceTokenizer(byte_tokenizer_definition(), "bytes").prefix_ids == ()
    assert BYTES.prefix_ids == ()


def test_a_models_folder_keeps_its_prompt(tmp_path):
    assert stored_prompt(tmp_path) is None
    prompt = Prompt("Frage: {question}\n", (3, 4))
    prompt.save(tmp_path)
    assert stored_prompt(tmp_path) == prompt
    (tmp_path / "prompt.json").write_text('{"template": "{question}"}')
    with pytest.raises(UserError, match=r"prompt.json is not valid .*prefix_ids.*--template"):
        stored_prompt(tmp_path)


def test_the_byte_tokenizer_as_a_file_has_the_same_ids():
    text = "né 漢字🙂\n\t<|endoftext|>" + "".join(map(chr, range(600)))
    tokenizer = HuggingFaceTokenizer(byte_tokenizer_definition(), "bytes")
    np.testing.assert_array_equal(tokenizer.encode(text), BYTES.encode(text))
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (BYTES.vocab_size, BYTES.eos_id)
    assert tokenizer.decode([*BYTES.encode(text), tokenizer.eos_id]) == text


def test_examples_are_read_with_their_lines(tmp_path):
    path = write_questions(tmp_path / "a.jsonl", sums(2))
    path.write_text("\n" + path.read_text() + "\n")
    first, second = read_examples(path)
    assert first == Example("0+0?", "<<0+0=0>>\n#### 0", f"{path}, line 2")
    assert second.where == f"{path}, line 3"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"a.jsonl, line 2: not valid JSON"),
        ("[1]", r"line 2: expected a JSON object such as {\"question\": .*, got a list"),
        ('{"question": "1?"}', r"line 2: the field \"answer\" is missing \(its fields: 'question'"),
        ('{"text": "1?"}', r"line 2: the field \"question\" is missing \(its fields: 'text'"),
        ('{"question": 1, "answer": "1"}', r"line 2: the field \"question\" is not a string"),
        ('{"question": "1?", "answer": " "}', r"line 2: the field \"answer\" is empty"),
        ('{"question": "\\ud800", "answer": "1"}', r"line 2: .*\"question\" has half of a surrog"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path, line, message):
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

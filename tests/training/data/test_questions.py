"""Examples: rows of questions and answers, or of conversations."""

import json

import pyarrow
import pytest
from pyarrow import parquet
from question_files import as_conversations, sums, write_questions

from training.data.questions import Example, has_questions, read_examples, split_examples
from training.errors import DataError


def test_examples_are_read_with_their_rows(tmp_path):
    path = write_questions(tmp_path / "a.jsonl", sums(2))
    first, second = read_examples(path)
    assert first == Example("0+0?", "<<0+0=0>>\n#### 0", f"{path}, row 1")
    assert second.where == f"{path}, row 2"


def test_parquet_files_have_questions_and_conversations_too(tmp_path):
    for name, records in [("a", sums(2)), ("b", as_conversations(sums(2)))]:
        path = tmp_path / f"{name}.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(records), path)
        assert has_questions(path)
        examples = read_examples(path)
        assert examples[0] == Example("0+0?", "<<0+0=0>>\n#### 0", f"{path}, row 1")
    parquet.write_table(pyarrow.table({"text": ["some"]}), tmp_path / "c.parquet")
    assert not has_questions(tmp_path / "c.parquet")


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


def test_a_missing_or_empty_file_and_one_of_another_kind_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none.jsonl: no such file. Give a file of JSON lines"):
        read_examples(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"empty.jsonl: it has no lines"):
        read_examples(tmp_path / "empty.jsonl")
    (tmp_path / "a.json").write_text("\n")
    with pytest.raises(DataError, match=r"a.json: questions are read from files that end in"):
        read_examples(tmp_path / "a.json")


def conversation(*pairs):
    return {"messages": [{"role": role, "content": text} for role, text in pairs]}


SYSTEM = ("system", "Be brief.")


def test_a_conversation_is_its_last_question_and_answer_after_what_came_before(tmp_path):
    rows = [
        conversation(SYSTEM, ("user", f"{i}+1?"), ("assistant", "2"), ("user", "Sure?"), last)
        for i, last in enumerate([("assistant", "Yes."), ("assistant", "No.")] * 5)
    ]
    examples = read_examples(write_questions(tmp_path / "a.jsonl", rows))
    assert (examples[1].question, examples[1].answer) == ("Sure?", "No.")
    assert examples[1].messages == rows[1]["messages"]
    # What is held out is chosen by the first questions: the last ones are all the same.
    training, held_out = split_examples(examples, 0.3)
    assert (len(training), len(held_out)) == (7, 3)
    one_turn = conversation(("user", "1+1?"), ("assistant", "2"))
    (example,) = read_examples(write_questions(tmp_path / "b.jsonl", [one_turn]))
    assert example == Example("1+1?", "2", f"{tmp_path}/b.jsonl, row 1")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": "1+1?"},
        {"messages": [{"role": "user"}, {"role": "assistant", "content": "2"}]},
        conversation(SYSTEM, ("user", "1+1?")),
        conversation(("user", 1), ("assistant", "2")),
        {"question": "1+1?", "answer": "2"},
    ],
)
def test_messages_that_are_no_conversation_are_explained(tmp_path, row):
    rows = [conversation(("user", "1+1?"), ("assistant", "2")), row]
    with pytest.raises(DataError, match=r'a.jsonl, row 2: expected {"messages": \[.* at the end'):
        read_examples(write_questions(tmp_path / "a.jsonl", rows))

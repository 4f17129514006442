"""The generated problems: right arithmetic, no question in both files, the same for a seed."""

import itertools
import json
import operator
import re

import pytest
from rich.console import Console

from training.commands.problems import ProblemsConfig, write_problems
from training.data.problem_texts import EVENTS, NAMES, OBJECTS, OPENINGS, QUESTIONS
from training.data.problems import generate_problems
from training.data.questions import read_examples
from training.errors import UserError
from training.inference.answers import final_number

CALCULATION = re.compile(r"(\d+)([-+*/])(\d+)=<<\1\2\3=(\d+)>>\4 ")
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def problems(count, **options):
    return list(itertools.islice(generate_problems(**({"seed": 0} | options)), count))


def write(tmp_path, **options):
    write_problems(ProblemsConfig(out=tmp_path, **options), Console(quiet=True))
    return [read_examples(tmp_path / f"{name}.jsonl") for name in ("train", "test")]


def test_every_annotation_is_true_and_follows_from_the_question():
    for problem in problems(1000, max_steps=3, largest_number=99):
        first, *changes = map(int, re.findall(r"\d+", problem.question))
        *lines, last = problem.answer.split("\n")
        total = first
        for line, change in zip(lines, changes, strict=True):
            a, symbol, b, c = CALCULATION.search(line).groups()
            assert OPERATIONS[symbol](int(a), int(b)) == int(c)
            assert (int(a), int(b)) == (total, change), problem
            total = int(c)
        assert last == f"#### {total}"
        assert final_number(problem.answer) == str(total)


def test_numbers_and_steps_keep_to_their_limits():
    for options, allowed in (({"max_steps": 3}, {1, 2, 3}), ({"min_steps": 2}, {2})):
        made = problems(500, **options)
        assert {problem.answer.count("<<") for problem in made} == allowed
        numbers = [int(n) for p in made for n in re.findall(r"\d+", p.question + p.answer)]
        assert (min(numbers), max(numbers)) == (2, 15)
    large = problems(500, largest_number=99)
    numbers = [int(n) for problem in large for n in re.findall(r"\d+", problem.answer)]
    assert 90 < max(numbers) <= 99


def test_all_words_are_used():
    text = " ".join(problem.question for problem in problems(5000))
    for word in (*NAMES, *OBJECTS):
        assert word in text
    for template in (*OPENINGS, *QUESTIONS, *itertools.chain(*EVENTS.values())):
        pattern = re.sub(r"\\\{n\\\}", r"\\d+", re.escape(template))
        assert re.search(re.sub(r"\\\{\w+\\\}", r"\\w+", pattern), text), template


def test_the_files_share_no_question_and_none_repeats(tmp_path):
    train, test = write(tmp_path, train=3000, test=500, max_steps=1)
    questions = [example.question for example in (*train, *test)]
    assert (len(train), len(test)) == (3000, 500)
    assert len(set(questions)) == len(questions)


def test_a_seed_gives_the_same_files_and_another_one_others(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write(tmp_path / name, train=20, test=10, seed=seed)
    a, b, c = ((tmp_path / name / "train.jsonl").read_bytes() for name in "abc")
    assert a == b != c
    assert json.loads(a.splitlines()[0]).keys() == {"question", "answer"}


def test_the_test_file_does_not_depend_on_the_number_of_training_problems(tmp_path):
    write(tmp_path / "few", train=20, test=10)
    write(tmp_path / "many", train=200, test=10)
    few, many = ((tmp_path / name / "test.jsonl").read_bytes() for name in ("few", "many"))
    assert few == many


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 0}, "--train is 0, but must be at least 1"),
        ({"min_steps": 2, "max_steps": 1}, "--max-steps is 1, but must be at least 2"),
        ({"largest_number": 5}, "--largest-number is 5, but must be at least 6"),
        ({"seed": -1}, "--seed is -1, but must be at least 0"),
    ],
)
def test_bad_options_are_named(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        write(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_files_are_never_overwritten(tmp_path):
    (tmp_path / "test.jsonl").write_text("mine")
    with pytest.raises(UserError, match=r"test.jsonl exists already: give another folder"):
        write(tmp_path, train=2, test=2)


def test_too_few_different_problems_is_said(monkeypatch):
    monkeypatch.setattr("training.data.problems.NAMES", ("Ada", "Ben"))
    monkeypatch.setattr("training.data.problems.OBJECTS", ("apples",))
    monkeypatch.setattr("training.data.problems.MOST_REPETITIONS", 100)
    with pytest.raises(
        UserError, match=r"hardly more than [\d,]+ different problems .* 6: ask for"
    ):
        problems(10**6, max_steps=1, largest_number=6)

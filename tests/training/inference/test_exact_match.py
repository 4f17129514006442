"""The score is GSM-8k's own: the number after "####", compared as text."""

import re

import pytest

from training.data.questions import Example
from training.errors import DataError
from training.inference.exact_match import final_number, reference_number

# grade_school_math/dataset.py, word for word but for its names.
REFERENCE = re.compile(r"#### (\-?[0-9\.\,]+)")


def extract_answer(completion):
    match = REFERENCE.search(completion)
    if match:
        match_str = match.group(1).strip()
        match_str = match_str.replace(",", "")
        return match_str
    else:
        return "[invalid]"


OUTPUTS = {
    "In all 48+24=<<48+24=72>>72 clips.\n#### 72": "72",
    "#### 1,234,567": "1234567",
    "#### -5": "-5",
    "#### 3.50 dollars": "3.50",
    "#### 18.": "18.",
    "#### 5\n#### 6": "5",
    "####5": None,
    "#### five": None,
    "#### $5": None,
    "the answer is 72": None,
    "": None,
    "#### +5": None,
    "first #### none, then #### 7": "7",
    "#### ,": "",
}


@pytest.mark.parametrize(("output", "number"), OUTPUTS.items())
def test_numbers_are_found_as_the_reference_finds_them(output, number):
    assert final_number(output) == number
    assert extract_answer(output) == ("[invalid]" if number is None else number)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("answer", ["#### 72", "#### 1,234,567", "#### -5", "#### 18", "#### 3.5"])
def test_matches_are_those_of_the_reference(output, answer):
    match = final_number(output) == reference_number(Example("?", answer, "file, line 1"))
    assert match == (extract_answer(output) == extract_answer(answer))


def test_a_reference_without_a_number_is_refused_with_its_line():
    example = Example("1+1?", "It is 2.", "test.jsonl, line 7")
    with pytest.raises(
        DataError, match=r'test.jsonl, line 7: the answer has no number after "####'
    ):
        reference_number(example)

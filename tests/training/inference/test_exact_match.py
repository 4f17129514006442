"""The score is GSM-8k's own: the number after "####", compared as text."""

import re

import pytest

from training.inference.answers import final_number

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
    match = final_number(output) == final_number(answer)
    assert match == (extract_answer(output) == extract_answer(answer))

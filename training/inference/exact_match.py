"""GSM-8k's own score: the number after "####", compared as text.

Reference: grade_school_math/dataset.py of github.com/openai/grade-school-math (arXiv 2110.14168).
"""

import re

from training.data.questions import Example
from training.errors import DataError

_ANSWER = re.compile(r"#### (\-?[0-9\.\,]+)")


def final_number(text: str) -> str | None:
    """The number after the first "#### " of a text, without commas; None if there is none.

    Example:
        >>> final_number("48+24 = <<48+24=72>>72 clips.\\n#### -1,072")
        '-1072'
    """
    match = _ANSWER.search(text)
    return None if match is None else match.group(1).replace(",", "")


def reference_number(example: Example) -> str:
    """The number that an example's answer gives.

    Raises:
        DataError: it gives none; the message names file and line.
    """
    number = final_number(example.answer)
    if number is None:
        raise DataError(
            f'{example.where}: the answer has no number after "#### ", which is what is compared. '
            'End it with a line such as "#### 72", or remove the line.'
        )
    return number


def is_exact_match(output: str, reference: str) -> bool:
    """Whether a generated text gives the reference number, character by character.

    Example:
        >>> is_exact_match("so it is #### 1,000 dollars", "1000")
        True
        >>> is_exact_match("so it is 1000", "1000")
        False
    """
    return final_number(output) == reference

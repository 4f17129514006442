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

"""Questions with answers, as JSON lines: {"question": "...", "answer": "... #### 72"}."""

import dataclasses
from pathlib import Path

from training.data.files import JSON_LINES, has_suffix
from training.data.json_lines import read_json_objects, string_field
from training.errors import DataError

_EXPECTED = '{"question": "...", "answer": "... #### 72"}'


@dataclasses.dataclass(frozen=True)
class Example:
    """One line of a file.

    Attributes:
        question: not blank.
        answer: not blank; in GSM-8k the solution, which ends in "#### number".
        where: its file and line, for messages.
    """

    question: str
    answer: str
    where: str


def has_questions(path: Path) -> bool:
    """Whether data are questions rather than text: JSON lines of which the first one has one.

    What is not there counts as questions too, for `read_examples` to say so.
    """
    if not path.exists() and not any(character in str(path) for character in "*?[:"):
        return True
    if not path.is_file() or not has_suffix(path, JSON_LINES):
        return False
    first = next(read_json_objects(path, _EXPECTED), None)
    return first is None or "text" not in first[1]


def read_examples(path: Path) -> list[Example]:
    """Reads a file of questions and answers.

    Args:
        path: JSON lines, compressed if its name ends in ".gz"; blank lines are skipped.

    Raises:
        DataError: the file cannot be read or has no examples, or a line is not a JSON object with
            texts in `question` and `answer`; the message names file and line.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: no such file. Give a file of JSON lines such as {_EXPECTED}; `train.py "
            "problems` writes some."
        )
    examples = []
    for number, record in read_json_objects(path, _EXPECTED):
        where = f"{path}, line {number}"
        fields = [string_field(where, record, name) for name in ("question", "answer")]
        for name, text in zip(("question", "answer"), fields, strict=True):
            if not text.strip():
                raise DataError(
                    f'{where}: the field "{name}" is empty. Fill it or remove the line.'
                )
        examples.append(Example(fields[0], fields[1], where))
    if not examples:
        raise DataError(f"{path}: it has no lines. Give JSON lines such as {_EXPECTED}.")
    return examples

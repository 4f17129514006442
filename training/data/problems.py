"""Arithmetic word problems in GSM-8k's format, so that nothing need be downloaded to fine-tune and
to evaluate.

    {"question": "Ada has 5 apples. Ada buys 3 more apples. How many apples does Ada have now?",
     "answer": "Ada then has 5+3=<<5+3=8>>8 apples.\\n#### 8"}
"""

import operator
import random
from collections.abc import Iterator
from typing import NamedTuple

from training.data.problem_texts import EVENTS, NAMES, OBJECTS, OPENINGS, QUESTIONS, RATIONALES
from training.errors import UserError

SMALLEST_NUMBER = 2  # of what is counted: one apple would need other words
LARGEST_FACTOR = 5  # of a multiplication or division
MOST_REPETITIONS = 10_000  # problems in a row that are there already, before it gives up

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}


class Problem(NamedTuple):
    """A question and its solution, which ends in "#### number"."""

    question: str
    answer: str


def generate_problems(
    seed: int, *, min_steps: int = 1, max_steps: int = 2, largest_number: int = 15
) -> Iterator[Problem]:
    """Yields different problems without end, the same ones for the same arguments.

    No number that occurs is above `largest_number`, at least 6. A `UserError` in the end, where
    there are too few different problems of this kind.

    >>> print(next(generate_problems(1, max_steps=1, largest_number=30)).answer)
    That makes 5+16=<<5+16=21>>21 eggs.
    #### 21
    """
    numbers = random.Random(seed)
    seen: set[str] = set()
    repeated = 0
    while repeated <= MOST_REPETITIONS:
        problem = _problem(numbers, numbers.randint(min_steps, max_steps), largest_number)
        if problem.question in seen:
            repeated += 1
            continue
        seen.add(problem.question)
        repeated = 0
        yield problem
    raise UserError(
        f"there are hardly more than {len(seen):,} different problems with at most {max_steps} "
        f"step(s) and --largest-number {largest_number}: ask for fewer problems, or give a larger "
        "--largest-number or --max-steps"
    )


def _problem(numbers: random.Random, steps: int, largest: int) -> Problem:
    name, other = numbers.sample(NAMES, 2)
    words = {"name": name, "other": other, "objects": numbers.choice(OBJECTS)}
    total = numbers.randint(SMALLEST_NUMBER, largest)
    question = [numbers.choice(OPENINGS).format(n=total, **words)]
    solution = []
    for _ in range(steps):
        symbol, amount = numbers.choice(_possible(numbers, total, largest))
        result = OPERATIONS[symbol](total, amount)
        question.append(numbers.choice(EVENTS[symbol]).format(n=amount, **words))
        calculation = f"{total}{symbol}{amount}"
        annotated = f"{calculation}=<<{calculation}={result}>>{result}"
        solution.append(numbers.choice(RATIONALES[symbol]).format(sum=annotated, **words))
        total = result
    question.append(numbers.choice(QUESTIONS).format(**words))
    return Problem(" ".join(question), "\n".join([*solution, f"#### {total}"]))


def _possible(numbers: random.Random, total: int, largest: int) -> list[tuple[str, int]]:
    """One calculation of each kind that keeps to the numbers allowed; there is at least one."""
    smallest = SMALLEST_NUMBER
    factors = range(smallest, LARGEST_FACTOR + 1)
    amounts = {
        "+": range(smallest, largest - total + 1),
        "-": range(smallest, total - smallest + 1),
        "*": [factor for factor in factors if total * factor <= largest],
        "/": [factor for factor in factors if total % factor == 0 and total // factor >= smallest],
    }
    return [(symbol, numbers.choice(choices)) for symbol, choices in amounts.items() if choices]

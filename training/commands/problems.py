"""`train.py problems`: arithmetic word problems in GSM-8k's format, so that nothing need be
downloaded to fine-tune and to evaluate.

    {"question": "Ada has 5 apples. Ada buys 3 more apples. How many apples does Ada have now?",
     "answer": "Ada then has 5+3=<<5+3=8>>8 apples.\\n#### 8"}
"""

import dataclasses
import itertools
import json
import operator
import random
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from training.commands.problem_texts import EVENTS, NAMES, OBJECTS, OPENINGS, QUESTIONS, RATIONALES
from training.errors import UserError, as_flag

SMALLEST_NUMBER = 2  # of what is counted: one apple would need other words
LARGEST_FACTOR = 5  # of a multiplication or division
MOST_REPETITIONS = 10_000  # problems in a row that are there already, before it gives up

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProblemsConfig:
    """Write arithmetic word problems as train.jsonl and test.jsonl, which share no question. The
    defaults are easy enough for a model of half a million parameters;
    benchmarks/measure/finetuning.py has such a run."""

    out: Path = Path("problems")
    """Folder of the two files."""
    train: int = 20_000
    """Problems to train on."""
    test: int = 500
    """Problems to test on; they depend neither on --train nor on the problems in train.jsonl."""
    seed: int = 0
    """Seeds everything."""
    min_steps: int = 1
    """Fewest calculations that a problem takes."""
    max_steps: int = 2
    """Most calculations that a problem takes."""
    largest_number: int = 15
    """No number in a problem or its solution is larger."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A question and its solution, which ends in "#### number"."""

    question: str
    answer: str


def generate_problems(
    seed: int, *, min_steps: int = 1, max_steps: int = 2, largest_number: int = 15
) -> Iterator[Problem]:
    """Yields different problems without end, the same ones for the same arguments.

    Args:
        seed: of the random numbers.
        min_steps: fewest calculations that a problem takes.
        max_steps: most calculations.
        largest_number: that may occur, at least 6.

    Raises:
        UserError: there are too few different problems of this kind.

    Example:
        >>> print(next(generate_problems(1, max_steps=1, largest_number=30)).answer)
        That makes 5+16=<<5+16=21>>21 eggs.
        #### 21
    """
    numbers = random.Random(seed)
    seen: set[str] = set()
    repeated = 0
    while True:
        problem = _problem(numbers, numbers.randint(min_steps, max_steps), largest_number)
        if problem.question in seen:
            repeated += 1
            if repeated > MOST_REPETITIONS:
                raise UserError(
                    f"there are hardly more than {len(seen):,} different problems with at most "
                    f"{max_steps} step(s) and --largest-number {largest_number}: ask for fewer "
                    "problems, or give a larger --largest-number or --max-steps"
                )
            continue
        seen.add(problem.question)
        repeated = 0
        yield problem


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


def write_problems(config: ProblemsConfig, console: Console) -> None:
    """Writes train.jsonl and test.jsonl.

    Args:
        config: as given.
        console: for what was written, and an example.

    Raises:
        UserError: for numbers that make no sense, a file that exists already, or a folder that
            cannot be written.
    """
    _check(config)
    problems = generate_problems(
        config.seed,
        min_steps=config.min_steps,
        max_steps=config.max_steps,
        largest_number=config.largest_number,
    )
    # The test problems come first, so that another --train leaves them as they are.
    test = list(itertools.islice(problems, config.test))
    train = list(itertools.islice(problems, config.train))
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        for name, split in (("train", train), ("test", test)):
            lines = [json.dumps(dataclasses.asdict(problem)) + "\n" for problem in split]
            (config.out / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    except OSError as error:
        raise UserError(f"cannot write to {config.out}: {error.strerror}") from error
    console.print(
        f"{config.out}: {len(train):,} problems in train.jsonl, {len(test):,} in test.jsonl, e.g.\n"
        f"{train[0].question}\n{train[0].answer}",
        highlight=False,
        markup=False,
    )


def _check(config: ProblemsConfig) -> None:
    least = {
        "train": 1,
        "test": 1,
        "seed": 0,
        "min_steps": 1,
        "max_steps": config.min_steps,
        "largest_number": 3 * SMALLEST_NUMBER,
    }
    for name, smallest in least.items():
        if getattr(config, name) < smallest:
            raise UserError(
                f"{as_flag(name)} is {getattr(config, name)}, but must be at least {smallest}"
            )
    for name in ("train.jsonl", "test.jsonl"):
        if (config.out / name).exists():
            raise UserError(f"{config.out / name} exists already: give another folder with --out")

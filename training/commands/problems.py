"""`train.py problems`: arithmetic word problems to train and to test on."""

import dataclasses
import itertools

from etils import epath
from rich.console import Console

from training.config.options import Folder
from training.data.problems import SMALLEST_NUMBER, generate_problems
from training.errors import UserError, as_flag
from training.files import to_text, write_text, writing_to


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProblemsConfig:
    """Write arithmetic word problems as train.jsonl and test.jsonl, which share no question. The
    defaults are easy enough for a model of half a million parameters;
    benchmarks/measure/finetuning.py has such a run."""

    out: Folder = dataclasses.field(default=epath.Path("problems"))
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


def write_problems(config: ProblemsConfig, console: Console) -> None:
    """Writes train.jsonl and test.jsonl, and prints an example."""
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
    with writing_to(config.out):
        config.out.mkdir(parents=True, exist_ok=True)
        for name, split in (("train", train), ("test", test)):
            lines = [to_text(problem._asdict()) + "\n" for problem in split]
            write_text(config.out / f"{name}.jsonl", "".join(lines))
    console.print(
        f"{config.out}: {len(train):,} problems in train.jsonl, {len(test):,} in test.jsonl, e.g.\n"
        f"{train[0].question}\n{train[0].answer}",
        highlight=False,
        markup=False,
    )


def _check(config: ProblemsConfig) -> None:
    least = {"train": 1, "test": 1, "seed": 0, "min_steps": 1, "max_steps": config.min_steps}
    for name, smallest in (least | {"largest_number": 3 * SMALLEST_NUMBER}).items():
        value = getattr(config, name)
        if value < smallest:
            raise UserError(f"{as_flag(name)} is {value}, but must be at least {smallest}")
    for name in ("train.jsonl", "test.jsonl"):
        if (config.out / name).exists():
            raise UserError(f"{config.out / name} exists already: give another folder with --out")

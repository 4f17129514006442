"""What a claim is, and how what was found here decides it.

Every verdict is a quantity with its interval on one side of a limit, on the other, or across it.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.timing import Spread

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "not decided", "not run"

MATCHES = 0.02
"""Nats per byte by which one loss may exceed another that it is said to match: a hundredth."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One thing that was looked at.

    Attributes:
        what: in words.
        here: what was found, with its interval.
        verdict: one of the four words.
    """

    what: str
    here: str
    verdict: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """loss(lower) < loss(higher) + margin.

    Attributes:
        lower, higher: names of methods.
        margin: nats per byte; 0 where one is said to be ahead, `MATCHES` where level.
    """

    lower: str
    higher: str
    margin: float = 0.0


@dataclasses.dataclass(frozen=True)
class Losses:
    """Decided by tuned trainings.

    Attributes:
        comparisons: all of them must hold.
        beside: methods that are shown without anything said of them.
        scales: where they can be made, from the smallest on: keys of `training.SETTINGS`.
    """

    comparisons: tuple[Comparison, ...]
    beside: tuple[str, ...] = ()
    scales: tuple[str, ...] = ("toy", "small")

    def at(self, scale: str | None) -> str | None:
        """The setting of a scale, "toy" or "small"; None if it has none; the smallest for None."""
        fitting = (name for name in self.scales if name.split()[0] == scale)
        return self.scales[0] if scale is None else next(fitting, None)

    @property
    def methods(self) -> tuple[str, ...]:
        """All that are trained, each once."""
        compared = (name for one in self.comparisons for name in (one.lower, one.higher))
        return tuple(dict.fromkeys((*compared, *self.beside)))


@dataclasses.dataclass(frozen=True)
class Figures:
    """Decided by what a benchmark wrote.

    Attributes:
        file: its JSON in benchmarks/results, without the ending.
        read: the JSON to outcomes.
        measure: tokens' file to the JSON's contents, where this command makes it; None where
            another does.
        command: of the other.
        minutes: that measuring takes at most on two slow cores, for `--budget`.
    """

    file: str
    read: Callable[[dict[str, Any]], list[Outcome]]
    measure: Callable[[pathlib.Path], dict[str, Any]] | None = None
    command: str = ""
    minutes: float = 5


@dataclasses.dataclass(frozen=True)
class AtScale:
    """The paper's own sizes, for who has the hardware.

    Attributes:
        presets: of models/configs.py; none where nothing is of a model.
        commands: with {preset} where that goes.
        methods: whose memory is told, beside those that the evidence compares.
        then: what decides the claim, where that is no loss in the commands' tables.
    """

    presets: tuple[str, ...]
    commands: tuple[str, ...]
    methods: tuple[str, ...] = ()
    then: str = ""


@dataclasses.dataclass(frozen=True)
class Claim:
    """An entry.

    Attributes:
        name: on the command line.
        where: in the paper.
        says: in our words.
        published: a figure that could be verified, or the direction in words.
        evidence: what decides it here.
        at_scale: what to run for the paper's sizes; None where no command does.
        note: how to read it; why it fails, where that was found.
    """

    name: str
    where: str
    says: str
    published: str
    evidence: Losses | Figures
    at_scale: AtScale | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Paper:
    """A module of this package.

    Attributes:
        name: of its section in docs/papers.md, which names the paper.
        claims: its entries.
    """

    name: str
    claims: tuple[Claim, ...]


def below(low: float, high: float, limit: float) -> str:
    """Whether a quantity whose interval is [low, high] is less than a limit.

    >>> below(0.5, 0.9, 1.0), below(0.9, 1.1, 1.0), below(1.1, 1.2, 1.0)
    ('holds', 'not decided', 'does not hold')
    """
    if high < limit:
        return HOLDS
    # What is not a number is on neither side.
    return FAILS if low > limit else UNDECIDED


def above(low: float, high: float, limit: float) -> str:
    """Whether a quantity whose interval is [low, high] is more than a limit."""
    return below(-high, -low, -limit)


def decided(
    what: str, here: str, found: Spread, side: Callable[[float, float, float], str], limit: float
) -> Outcome:
    """An outcome that a spread decides by the side of a limit that it is on.

    Args:
        what: is looked at.
        here: what was found, in words, with a place for the spread, as "{:.1f} times".
        found: the spread.
        side: `below` or `above`.
        limit: of the claim.
    """
    return Outcome(what, here.format(found), side(found.low, found.high, limit))


def together(verdicts: Iterable[str]) -> str:
    """Of a claim with several outcomes: one that fails decides, and all must hold."""
    found = set(verdicts)
    if FAILS in found:
        return FAILS
    return found.pop() if len(found) == 1 else UNDECIDED if found else NOT_RUN

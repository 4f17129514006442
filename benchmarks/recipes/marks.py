"""The marks that were set before the search, and what it found of each."""

import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from benchmarks.pages import read_results
from benchmarks.recipes.stages import AS_IT_STANDS, STAGES
from benchmarks.recipes.task import Setting
from benchmarks.tables import markdown_table

Row = dict[str, Any]


class Mark(NamedTuple):
    """In a stage the losses of methods may be above the mean of the rivals' by `at_most`.

    For None they have to be below it by three standard deviations of the difference.
    """

    mark: str
    at_most: float | None
    rivals: tuple[str, ...]
    stage: str
    methods: tuple[str, ...]


ONE = "1 byte: within 0.01 of Muon"
BELOW = "1/4 byte: three standard deviations below AdamW"
NEAR = "1/4 byte, in up to 600 steps: within 0.05 of Muon"
HALF = "1/4 byte, in 1000 steps or more: half of Muon's lead over AdamW"
SMALL = "1/16 byte: not above AdamW"
MUON, ADAMW = ("muon",), ("adamw",)
MUON_1, ADAMW_2 = ("muon at one rate",), ("adamw, two rates",)
QUARTER, QUARTER_1 = ("tandem n/4 int8",), ("tandem n/4 int8 at one rate",)
SMALLEST, SMALLEST_1 = ("tandem n/16 int8",), ("tandem n/16 int8 at one rate",)
OTHERS_1 = ("tandem at one rate", "normuon int2 at one rate")
FORGETFUL_1 = ("normuon at one rate, no memory",)
NARROW, WIDER, WIDEST = "one rate", "one rate, width 128", "width 256"
LARGE, SMALL_BATCH, TUNED = "large batch", "small batch", "fine-tuning"
LONG, LONG_WIDER, LONGER = "long", "long, width 128", "longer"
SHORT = (NARROW, WIDER, WIDEST, LARGE, SMALL_BATCH, TUNED)
LASTING = (LONG, LONG_WIDER, LONGER)

MARKS = (
    Mark(ONE, 0.01, MUON, "main", ("normuon int8", "tandem n/4")),
    Mark(ONE, 0.01, MUON, "width 64", ("normuon int8", "muon int8")),
    Mark(ONE, 0.01, MUON_1, "one rate", ("normuon int4 at one rate",)),
    Mark(BELOW, None, ADAMW, "main", QUARTER),
    Mark(BELOW, None, ADAMW, "width 64", QUARTER),
    Mark(BELOW, None, ADAMW, "one rate", QUARTER_1),
    Mark(BELOW, None, ADAMW_2, "one rate", QUARTER_1),
    *(Mark(BELOW, None, ADAMW, stage, AS_IT_STANDS) for stage in SHORT + LASTING),
    *(
        Mark(BELOW, None, ADAMW, stage, OTHERS_1)
        for stage in (WIDER, LARGE, LONG, TUNED, WIDEST, LONGER)
    ),
    Mark(BELOW, None, ADAMW, SMALL_BATCH, OTHERS_1[1:]),
    Mark(NEAR, 0.05, MUON, "main", (*QUARTER, "tandem n/2 int4")),
    Mark(NEAR, 0.05, MUON, "width 64", (*QUARTER, "tandem n/2 int4")),
    Mark(NEAR, 0.05, MUON_1, "one rate", QUARTER_1 + OTHERS_1),
    Mark(NEAR, 0.05, ("muon, two rates",), "one rate", ("tandem n/2 int4, two rates",)),
    *(Mark(NEAR, 0.05, MUON_1, stage, AS_IT_STANDS) for stage in SHORT),
    *(Mark(NEAR, 0.05, MUON_1, stage, OTHERS_1) for stage in (WIDER, LARGE, TUNED, WIDEST)),
    Mark(NEAR, 0.05, MUON_1, SMALL_BATCH, OTHERS_1[1:]),
    *(
        Mark(NEAR, 0.05, ("muon at one rate, dion",), stage, AS_IT_STANDS)
        for stage in (WIDER, WIDEST)
    ),
    Mark(HALF, 0.0, MUON_1 + ADAMW, LONG, QUARTER_1 + OTHERS_1 + AS_IT_STANDS),
    Mark(HALF, 0.0, MUON_1 + ADAMW, LONG_WIDER, AS_IT_STANDS),
    Mark(HALF, 0.0, MUON_1 + ADAMW, LONGER, OTHERS_1 + AS_IT_STANDS),
    Mark(SMALL, 0.0, ADAMW, "main", SMALLEST),
    Mark(SMALL, 0.0, ADAMW, "width 64", SMALLEST),
    Mark(SMALL, 0.0, ADAMW, "one rate", SMALLEST_1),
    Mark(SMALL, 0.0, ADAMW_2, "one rate", SMALLEST_1),
    Mark(SMALL, 0.0, ADAMW, LONG, SMALLEST_1),
    *(
        Mark(SMALL, 0.0, ADAMW, stage, FORGETFUL_1)
        for stage in (WIDER, LARGE, SMALL_BATCH, LONG, TUNED)
    ),
)
"""Each for the methods it names and for others of as many bytes."""

UPDATES = (
    ("1 byte", "winners", 128, "normuon (int8)"),
    ("1/4 byte", "winners", 128, "normuon (int2)"),
    ("1/4 byte", "winners", 128, "normuon (int2, 3 iterations)"),
    ("1/4 byte", "winners", 128, "tandem (n/2, int4)"),
    ("1/4 byte", "optimizers", 128, "tandem (int8)"),
    ("1/16 byte", "optimizers", 32, "tandem (int8)"),
    ("none", "winners", 128, "normuon (no momentum)"),
)
"""Budgets, and by whom they are met: the benchmark, its rank of 512 and its name of the method."""


def table(found: Mapping[str, list[Row]], interval: Callable[[list[float]], float]) -> str:
    """Markdown: every mark, what was found, and whether it is met.

    Args:
      found: the rows of every stage, each with the "losses" of its seeds.
      interval: half the width of a mean's confidence interval.
    """
    header = ("mark", "in", "method", "above", "found", "at most", "")
    rows = []
    for mark in MARKS:
        losses = {row["method"]: row["losses"] for row in found.get(mark.stage, ())}
        task = described(STAGES[mark.stage].setting)
        for method in mark.methods:
            names = mark.mark, task, method, " and ".join(mark.rivals)
            rows.append((*names, *_judged(mark, method, losses, interval)))
    return markdown_table(header, rows)


def described(setting: Setting) -> str:
    """A task in few words.

    >>> described(Setting(width=64, steps=200, batch_size=32))
    'width 64, 200 steps of 8k tokens'
    """
    words = f"width {setting.width}, {setting.steps} steps"
    if setting.base_steps is not None:
        words += " of fine-tuning"
    elif setting.batch_size != Setting.batch_size:
        tokens = setting.batch_size * setting.seq_len
        words += f" of {tokens} tokens" if tokens < 1024 else f" of {tokens // 1024}k tokens"
    return words


def _judged(
    mark: Mark,
    method: str,
    losses: Mapping[str, list[float]],
    interval: Callable[[list[float]], float],
) -> tuple[str, str, str]:
    """What was found, what the mark admits, and a verdict; of equal seeds."""
    if not {method, *mark.rivals} <= {*losses}:
        return "not run", "", ""
    rival = [statistics.mean(each) for each in zip(*map(losses.get, mark.rivals), strict=True)]
    apart = [ours - its for ours, its in zip(losses[method], rival, strict=True)]
    deviation = (statistics.variance(losses[method]) + statistics.variance(rival)) ** 0.5
    at_most = -3 * deviation if mark.at_most is None else mark.at_most
    mean, half = statistics.mean(apart), interval(apart)
    verdict = "met" if mean <= at_most else "not met"
    settled = "" if abs(mean - at_most) > half else ", not settled"
    return f"{mean:+.3f} ± {half:.3f}", f"{at_most:+.3f}", verdict + settled


def updates() -> str:
    """Markdown: how many times as long Muon's update takes, optax's and this library's."""
    rows = []
    for budget, benchmark, rank, name in UPDATES:
        ranks = {each["rank"]: each["methods"] for each in read_results(benchmark)["ranks"]}
        label = name.replace("tandem (int8)", f"tandem (n/{512 // rank}, int8)")
        if name not in ranks[rank]:
            rows.append((budget, label, "not measured", "", ""))
            continue
        theirs, _, _ = ranks[rank][name]["muon_over_this"]
        muon, its = (ranks[rank][each]["over_adamw"][0] for each in ("muon", name))
        times = theirs, muon / its
        verdict = "met" if min(times) >= 3 else "by optax's alone" if max(times) >= 3 else "not met"
        rows.append((budget, label, *(f"{time:.1f}" for time in times), verdict))
    header = ("budget", "update of", "optax.contrib.muon", "muon", "a third")
    return markdown_table(header, rows)

"""The stages of the search: which methods in which settings, from which numbers on."""

import dataclasses
import pathlib

from benchmarks.recipes.methods import (
    ARGUMENTS,
    ATTEMPTS,
    CHANGES,
    CHANGES_AT_ONE_RATE,
    COMPETITORS,
    IN_THE_README,
    ONE_RATE,
    TWO_RATES,
)
from benchmarks.recipes.task import Setting
from benchmarks.record import RESULTS

FOLDER = RESULTS / "recipes"
OTHERS = (RESULTS / "papers" / "runs.jsonl",)
"""Runs of the papers' claims, which count here as well: one task, one name for one method."""
ABLATIONS = ("tandem n/4", *(f"tandem n/4, {name}" for name in CHANGES))
BLOCKS = (
    "tandem n/2 int4",
    "tandem n/2 int4, blocks 2",
    "tandem n/2 int4, blocks 1",
)
FEW_BITS = ("normuon int2", "normuon sign", "normuon, no memory", "tandem n/2 sign, blocks 1")
AT_ONE_RATE = ("adamw", *ONE_RATE)
AS_IT_STANDS = ("tandem as it stands",)
LATER = (
    "adamw",
    "muon at one rate",
    "tandem at one rate",
    *AS_IT_STANDS,
    "normuon int2 at one rate",
    "normuon at one rate, no memory",
)
"""What goes on to other widths, lengths, batches and texts."""
SMALL_BATCHES = tuple(name for name in LATER if name != "tandem at one rate")
SMALLER = ("tandem n/4 int8 at one rate", "tandem n/16 int8 at one rate")
ON_AN_ACCELERATOR = (*LATER, *SMALLER, "normuon int4 at one rate")
WIDEST = (
    "adamw",
    "muon at one rate",
    "muon at one rate, dion",
    "tandem at one rate",
    *AS_IT_STANDS,
    "normuon int2 at one rate",
)
LONG_ATTEMPTS = (
    "tandem n/4 int8 at one rate",
    "tandem n/4 int8 at one rate, rest with momentum 0.9",
    "tandem n/4 int8 at one rate, blocks 1",
    "tandem n/4 int8 at one rate, rest with momentum 0.9, blocks 1",
)
"""Whether in more steps a memory of the rest hurts, in four blocks and in one."""
LONGER = (
    "muon at one rate",
    "tandem at one rate",
    *AS_IT_STANDS,
    "normuon int2 at one rate",
)
"""What goes on to the most steps, with the numbers that are the best both in 300 and in 1000."""
FINALISTS = (
    "adamw",
    "muon",
    "normuon int4",
    "normuon int2",
    "normuon, no memory",
    "tandem n/2 int4",
    "tandem n/4 int8",
    "tandem n/16 int8",
)
MAIN = (
    "adamw",
    "muon",
    "muon int4",
    "normuon int8",
    "normuon int4",
    "trion 1/4",
    "tandem n/2 int8",
    "tandem n/2 int4",
    "tandem n/4",
    "tandem n/4 int8",
    "tandem n/16 int8",
)


@dataclasses.dataclass(frozen=True)
class Stage:
    """Methods in a setting.

    Attributes:
        setting: the task.
        methods: what is compared.
        start: the method whose best numbers in `found_in` the tuning starts from; None for each its
            own start, "" for its own best numbers there.
        only: the numbers that are tuned, of those that a method has; None for all, () for none.
        found_in: earlier stages, of which the first that has the method counts; by default those
            that tune all numbers, and then the README's.
    """

    setting: Setting
    methods: tuple[str, ...]
    start: str | None = None
    only: tuple[str, ...] | None = None
    found_in: tuple[str, ...] = ("main", "few bits", "one rate", "README")


RATE_ONLY = ("learning_rate",)
WITH_MOMENTUM = ("learning_rate", "momentum")
NARROW = Setting(width=64, steps=300)
LONG = Setting(width=64, steps=1000)
LONGEST = Setting(width=64, steps=2000)

STAGES = {
    "main": Stage(Setting(steps=300), MAIN),
    "width 64": Stage(NARROW, FINALISTS, "", RATE_ONLY),
    "competitors": Stage(NARROW, COMPETITORS),
    "ablations": Stage(NARROW, ABLATIONS, "tandem n/4", RATE_ONLY),
    "blocks": Stage(NARROW, BLOCKS, "tandem n/2 int4", RATE_ONLY),
    "few bits": Stage(NARROW, FEW_BITS),
    "one rate": Stage(NARROW, AT_ONE_RATE, None, WITH_MOMENTUM),
    "as it stands": Stage(NARROW, AS_IT_STANDS, None, RATE_ONLY),
    "one rate, width 128": Stage(Setting(steps=300), LATER, "", RATE_ONLY),
    "README": Stage(Setting(steps=300), tuple(IN_THE_README), None, RATE_ONLY),
    "ablations at one rate": Stage(NARROW, tuple(CHANGES_AT_ONE_RATE), None, RATE_ONLY),
    "attempts": Stage(NARROW, tuple(ATTEMPTS), None, RATE_ONLY),
    "arguments": Stage(NARROW, tuple(ARGUMENTS), None, RATE_ONLY),
    "two rates": Stage(NARROW, tuple(TWO_RATES), None, ("embedding_rate", "learning_rate")),
    "large batch": Stage(Setting(width=64, steps=200, batch_size=32), LATER, "", RATE_ONLY),
    "small batch": Stage(Setting(width=64, steps=600, batch_size=2), SMALL_BATCHES, "", RATE_ONLY),
    "long": Stage(LONG, LATER + SMALLER, "", RATE_ONLY),
    "long attempts": Stage(LONG, LONG_ATTEMPTS, "", RATE_ONLY, ("attempts",)),
    "long, width 128": Stage(
        Setting(steps=1000),
        ("adamw", "muon at one rate", *AS_IT_STANDS),
        "",
        RATE_ONLY,
        ("one rate, width 128", "README"),
    ),
    "longer": Stage(LONGEST, LONGER, "", (), ("long",)),
    "longer, AdamW": Stage(LONGEST, ("adamw",), "", RATE_ONLY, ("long",)),
    "width 256": Stage(Setting(width=256, steps=300), WIDEST, "", RATE_ONLY),
    "fine-tuning": Stage(dataclasses.replace(NARROW, base_steps=1000), LATER, "", RATE_ONLY),
}

LARGE = Setting(width=768, steps=2000, batch_size=64, seq_len=512, preset="130m", dtype="bfloat16")

SCALES = {
    "cpu": STAGES,
    "gpu": {
        "main": Stage(LARGE, ON_AN_ACCELERATOR),
        "long": Stage(dataclasses.replace(LARGE, steps=10_000), ON_AN_ACCELERATOR, "", RATE_ONLY),
        "large batch": Stage(
            dataclasses.replace(LARGE, steps=1000, batch_size=256),
            ON_AN_ACCELERATOR,
            "",
            RATE_ONLY,
        ),
    },
}
"""The same questions for one core and for an accelerator."""


def results_folder(scale: str, tokens: pathlib.Path | None) -> pathlib.Path:
    """Where the results are that may be compared: of one scale and one text.

    Args:
        scale: a key of `SCALES`.
        tokens: file of other tokens than the standard library's bytes.
    """
    folder = FOLDER if scale == "cpu" else FOLDER / scale
    return folder if tokens is None else folder / tokens.stem

"""The tables and the picture of docs/recipes.md and the README, from the runs' lines alone.

Run from the repository's root: ``python -m benchmarks.recipes.report``.
"""

import argparse
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.pages import ROOT, fill
from benchmarks.recipes import costs, marks
from benchmarks.recipes.methods import METHODS
from benchmarks.recipes.search import read_lines
from benchmarks.recipes.stages import OTHERS, SCALES, results_folder
from benchmarks.tables import markdown_table

PAGE = ROOT / "docs" / "recipes.md"
README = ROOT / "README.md"
HEADLINE = "one rate, width 128"
"""The stage that the README shows."""
LEFT_OUT = (
    "tandem at one rate",
    "tandem n/2 int4, two rates",
    "normuon int2 at one rate, dion",
)
"""What the README and the picture leave to the page: they show these as they stand."""
PICTURE = ROOT / "docs" / "recipes.png"
YARDSTICKS = {
    "ablations": "tandem n/4",
    "ablations at one rate": "normuon int2 at one rate",
    "arguments": "trion 1/4 as published",
    "attempts": "tandem n/4 int8 at one rate",
    "blocks": "tandem n/2 int4",
    "long attempts": "tandem n/4 int8 at one rate",
} | dict.fromkeys(
    (
        "one rate",
        "one rate, width 128",
        "width 256",
        "long",
        "long, width 128",
        "longer",
        "large batch",
        "small batch",
        "fine-tuning",
    ),
    "muon at one rate",
)
"""What a stage's methods are compared with, where that is not Muon."""
ALSO = {
    "width 64": ("few bits", "competitors"),
    "one rate": ("two rates", "as it stands"),
    "longer": ("longer, AdamW",),
    "one rate, width 128": ("README",),
}
"""Other stages of the same setting that a stage's table shows too."""
SETTINGS = {
    "one rate, width 128": "width 128, 300 steps of 2k tokens",
    "one rate": "width 64, 300 steps of 2k tokens",
    "long": "width 64, 1000 steps of 2k tokens",
}
"""What is drawn; more panels could not be read in the README."""
SHORT = {"tandem as it stands": "tandem", "tandem at one rate": "tandem, rms"}
TICKS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
TIME = "update / adamw's"
SENT = "sent per entry"
T_95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t for 95 % of both sides, by the number of runs."""

Row = dict[str, Any]


def interval(losses: list[float]) -> float:
    """Half the width of the mean's 95 % confidence interval."""
    return T_95[len(losses)] * statistics.stdev(losses) / len(losses) ** 0.5


def rows_of(
    stage: str,
    tuned: Iterable[Row],
    sizes: Mapping[str, float],
    cost_of: Mapping[str, costs.Cost],
) -> list[Row]:
    """A stage's methods by their loss; a method's last line counts.

    Args:
        stage: its name.
        tuned: the lines of all stages.
        sizes: bytes of state by entry of a matrix, by method.
        cost_of: the methods whose update was measured.
    """
    tuned = list(tuned)
    # Its own lines last, so that they count.
    last = {
        line["method"]: line
        for name in (*ALSO.get(stage, ()), stage)
        for line in tuned
        if line["stage"] == name
    }
    # Of the same seeds, so of the same weights and batches: their differences vary less.
    yardstick = last.get(yardstick_of(stage), {}).get("reported")
    rows = [
        {
            "method": name,
            "bytes": sizes[name],
            "cost": cost_of.get(name, costs.Cost(None, None)),
            "numbers": line["numbers"],
            "loss": statistics.mean(line["reported"]),
            "interval": interval(line["reported"]),
            "losses": line["reported"],
            "apart": yardstick
            and [ours - its for ours, its in zip(line["reported"], yardstick, strict=True)],
        }
        for name, line in last.items()
    ]
    return sorted(rows, key=lambda row: row["loss"])


def yardstick_of(stage: str) -> str:
    """The method that the others of a stage are compared with."""
    return YARDSTICKS.get(stage, "muon")


def table(rows: list[Row], yardstick: str, leave_out: Sequence[str] = ()) -> str:
    """Markdown.

    Args:
        rows: of a stage.
        yardstick: what their losses are compared with.
        leave_out: heads of columns.
    """
    found = [
        {
            "method": row["method"],
            "bytes per entry": f"{row['bytes']:.2f}",
            TIME: "–" if row["cost"].time is None else f"{row['cost'].time:.1f}",
            SENT: _sent(row["cost"].sent),
            "tuned": ", ".join(f"{name} {number:g}" for name, number in row["numbers"].items()),
            "validation loss": f"{row['loss']:.3f} ± {row['interval']:.3f}",
            f"above {yardstick}": _difference(row["apart"]),
        }
        for row in rows
    ]
    header = [head for head in found[0] if head not in leave_out]
    return markdown_table(header, [[row[head] for head in header] for row in found])


def _sent(sent: tuple[float, float] | None) -> str:
    """As in docs/sharding.md, with a "+" before what a change of subspace adds."""
    if sent is None:
        return "–"
    every_step, refresh = sent
    return f"{every_step:.2f} + {refresh:.2f}" if refresh else f"{every_step:.2f}"


def _difference(apart: list[float] | None) -> str:
    if not apart or not any(apart):
        return "–"
    return f"{statistics.mean(apart):+.3f} ± {interval(apart):.3f}"


def draw(stages: Mapping[str, list[Row]], path: pathlib.Path) -> None:
    """Loss against bytes, one panel a stage, and the front: what nothing smaller beats."""
    figure, axes = plt.subplots(1, len(stages), figsize=(5.5 * len(stages), 4.5), squeeze=False)
    for axis, (stage, rows) in zip(axes[0], stages.items(), strict=True):
        for place, row in enumerate(rows):
            low = any(_collide(row, above) for above in rows[place + 1 :])
            ours = row["method"].startswith("tandem")
            axis.errorbar(
                max(row["bytes"], 0.01),
                row["loss"],
                row["interval"],
                fmt="o",
                color="C3" if ours else "C0",
            )
            axis.annotate(
                short(row["method"]),
                (max(row["bytes"], 0.01), row["loss"]),
                fontsize=7,
                xytext=(4, -9 if low else 3),
                textcoords="offset points",
            )
        front: list[Row] = []
        for row in sorted(rows, key=lambda row: row["bytes"]):
            if not front or row["loss"] < front[-1]["loss"]:
                front.append(row)
        axis.step(
            [max(row["bytes"], 0.01) for row in front],
            [row["loss"] for row in front],
            where="post",
            color="0.7",
            zorder=0,
        )
        axis.set_xscale("log", base=2)
        axis.set_xlim(1 / 32, 48)
        axis.set_xticks(TICKS, [f"1/{round(1 / tick)}" if tick < 1 else tick for tick in TICKS])
        axis.set_title(SETTINGS[stage])
        axis.set_xlabel("bytes of state per entry of a matrix")
    axes[0][0].set_ylabel("validation loss (nats per byte)")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _collide(row: Row, above: Row) -> bool:
    """Whether two labels, about 2½ ticks wide, would lie on each other."""
    ticks = abs(math.log2(row["bytes"] / above["bytes"]))
    return ticks < 2.5 and above["loss"] - row["loss"] < 0.04


def read(scale: str = "cpu", tokens: pathlib.Path | None = None) -> dict[str, list[Row]]:
    """Every stage's methods by their loss."""
    folder = results_folder(scale, tokens)
    tuned = read_lines(folder / "tuned.jsonl")
    runs = [run for file in (*OTHERS, folder / "runs.jsonl") for run in read_lines(file)]
    known = costs.read(folder / "costs.json")
    found = {}
    for stage in {line["stage"] for line in tuned}.difference(*ALSO.values()):
        setting = SCALES[scale][stage].setting.key
        sizes = {run["method"]: run["bytes_per_entry"] for run in runs if run["setting"] == setting}
        found[stage] = rows_of(stage, tuned, sizes, known)
    return found


def render(page: str) -> str:
    """The page with its tables made anew."""
    found = read()
    tables = {stage: table(rows, yardstick_of(stage)) for stage, rows in found.items()}
    judged = {"marks": marks.table(found, interval), "updates": marks.updates()}
    return fill(page, tables | judged)


def render_readme(page: str) -> str:
    """The README with its table made anew."""
    rows = [row | {"method": short(row["method"])} for row in shown(HEADLINE, read())]
    return fill(page, {"headline": table(rows, short(yardstick_of(HEADLINE)), [SENT])})


def shown(stage: str, found: Mapping[str, list[Row]]) -> list[Row]:
    """A stage's rows but those that are left to the page, whose labels would collide."""
    return [row for row in found[stage] if row["method"] not in LEFT_OUT]


def short(method: str) -> str:
    """A method's name where all have one rate, and "rms" where that is not its default."""
    return SHORT.get(method, method.replace(" at one rate", ""))


def main() -> None:
    """Writes the pages' tables and the picture; of another scale or text prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=SCALES, default="cpu")
    parser.add_argument("--tokens", type=pathlib.Path, help="as the search was given")
    arguments = parser.parse_args()
    folder = results_folder(arguments.scale, arguments.tokens)
    if not (folder / "tuned.jsonl").exists():
        command = f"python -m benchmarks.recipes main --scale {arguments.scale}"
        raise SystemExit(f"no stage has run into {folder}: {command}")
    found = read(arguments.scale, arguments.tokens)
    if arguments.scale != "cpu" or arguments.tokens:
        for stage, rows in found.items():
            print(f"{stage}\n\n{table(rows, yardstick_of(stage))}\n")
        return
    PAGE.write_text(render(PAGE.read_text("utf-8")), "utf-8")
    README.write_text(render_readme(README.read_text("utf-8")), "utf-8")
    drawn = {stage: shown(stage, found) for stage in SETTINGS if stage in found}
    draw(drawn, PICTURE)
    missing = set(METHODS) - {row["method"] for rows in found.values() for row in rows}
    print("not yet run:", "; ".join(sorted(missing)) or "nothing")


if __name__ == "__main__":
    main()

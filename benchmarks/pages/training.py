"""Writes the tables of docs/training.md from the JSON that the benchmarks wrote.

Run from the repository's root: ``python -m benchmarks.pages.training``.
"""

from typing import Any

from benchmarks.measure import finetuning, reading
from benchmarks.measure.loop import overhead
from benchmarks.pages import DOCS, fill, read_results, rewrite
from benchmarks.timing import median

PAGE = DOCS / "training.md"


def faults(results: dict[str, Any]) -> str:
    """How many kills there were, where, and after how many all was as if there had been none."""
    kills = results["kills"]
    in_saves = sum(row["save_interrupted"] for row in kills)
    same = sum(not row["differs_in"] for row in kills)
    return (
        f"{len(kills)} kills, {in_saves} of them in the middle of a save and "
        f"{len(kills) - in_saves} between two; after {same} of them everything was the same, bit "
        "for bit."
    )


def loop(results: dict[str, Any]) -> str:
    """Cost of the loop and rate of the data."""
    added = overhead(results["seconds_per_step"])
    rounds = len(results["seconds_per_step"]["step"])
    step = median(results["seconds_per_step"]["step"])
    host = results["loop_host_seconds_per_step"]
    model = results["model_tokens_per_second"]
    rates = ", ".join(
        f"{source} {rate / 1e6:.1f} million tokens/s ({rate / model:,.0f} times the model's rate)"
        for source, rate in results["pipeline_tokens_per_second"].items()
    )
    return (
        f"In turns of one run a step of the loop took {added:+.1%} beside the bare step's "
        f"{1e3 * step:.0f} ms (median and quartiles of {rounds} rounds); the loop's own work is "
        f"{1e3 * host:.2f} ms a step, {host / step:.2%}. Data: {rates}."
    )


def render(page: str) -> str:
    """The page with its tables made anew."""
    return fill(
        page,
        {
            "finetuning": finetuning.table(read_results("finetuning")),
            "faults": faults(read_results("faults")),
            "reading": reading.sentence(read_results("reading")),
            "loop": loop(read_results("loop")),
        },
    )


def main() -> None:
    """Rewrites docs/training.md."""
    rewrite(PAGE, render)


if __name__ == "__main__":
    main()

"""Do the papers' claims hold, at the size that this machine allows?

Run from the repository's root: ``python -m benchmarks.papers [CLAIM…] [--budget MINUTES]``; without
names, all claims, those that need least first. Trained claims tune every method's learning rate
(and momentum) at one seed, on one half of the validation text, until the best is interior, and
report three other seeds on the other half. What is finished is in benchmarks/results/papers/ and
not made again. ``--scale paper`` prints the commands for the papers' own sizes, and their memory.
``python -m benchmarks.papers.report`` writes docs/papers.md.
"""

import argparse
import contextlib
import functools
import os
import pathlib
import time
from collections.abc import Iterable

from benchmarks.pages import RESULTS, ROOT
from benchmarks.papers import i3s, online_subspace_descent, reviewers, trion
from benchmarks.papers.at_scale import describe
from benchmarks.papers.claims import Claim, Figures, Losses
from benchmarks.papers.training import (
    FOLDER,
    SCALES,
    Trainings,
    expected_runs,
    missing_methods,
    read_runs,
    read_tuned,
    seconds_per_run,
)
from benchmarks.recipes.texts import write_library
from benchmarks.record import check_clean, git_commit, write_json

PAPERS = (trion.PAPER, online_subspace_descent.PAPER, i3s.PAPER, reviewers.PAPER)
ABSENT = "not trained at this scale"
CLAIMS = {claim.name: claim for paper in PAPERS for claim in paper.claims}


class Session:
    """One call of the command.

    Args:
        scale: a key of `SCALES`; None for the largest that fits the budget.
        minutes: of the budget; None for none.
        data: tokens' file, written when first needed.
        workers: single-threaded processes.
    """

    def __init__(self, scale: str | None, minutes: float | None, data: pathlib.Path, workers: int):
        self.scale, self.data, self.workers = scale, data, workers
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes

    @functools.cached_property
    def trainings(self) -> Trainings:
        """One set of processes for all claims."""
        write_missing(self.data)
        return Trainings(self.data, self.workers, self.deadline)

    def close(self) -> None:
        """Ends the processes, if there are any."""
        if "trainings" in vars(self):
            self.trainings.runs.close()

    def left(self) -> float:
        """Minutes."""
        return float("inf") if self.deadline is None else (self.deadline - time.monotonic()) / 60

    def make(self, claim: Claim) -> None:
        """Makes what a claim still lacks, as far as the budget goes."""
        if isinstance(claim.evidence, Losses):
            self._train(claim.name, claim.evidence)
        else:
            self._measure(claim.name, claim.evidence)

    def _train(self, name: str, evidence: Losses) -> None:
        left = self.left()
        scale = evidence.at(self.scale) if self.scale else largest(evidence, left, self.workers)
        if scale is None:
            print(f"{name}: {ABSENT}")
            return
        print(f"{name}: {plan(evidence, scale, self.workers)}", flush=True)
        if missing := missing_methods(evidence, scale, read_tuned()):
            self.trainings.make(missing, scale)

    def _measure(self, name: str, evidence: Figures) -> None:
        path = RESULTS / f"{evidence.file}.json"
        if evidence.measure is None:
            print(f"{name}: {path.relative_to(ROOT)} is written by `{evidence.command}`")
        elif path.exists():
            print(f"{name}: measured")
        elif evidence.minutes > self.left():
            print(f"-- {name} may take {evidence.minutes:g} minutes: not begun")
        else:
            write_missing(self.data)
            print(f"{name}: {evidence.minutes:g} minutes at most", flush=True)
            commit = git_commit()
            write_json(path, evidence.measure(self.data), commit)


def write_missing(data: pathlib.Path) -> None:
    """The tokens, if they are not there."""
    if not data.exists():
        data.parent.mkdir(parents=True, exist_ok=True)
        write_library(data)


def minutes_of(evidence: Losses, scale: str, workers: int) -> float:
    """That the runs which are missing take."""
    runs = read_runs()
    return runs_of(evidence, scale) * seconds_per_run(runs, scale) / workers / 60


def runs_of(evidence: Losses, scale: str) -> int:
    """About as many as are missing."""
    missing, runs = missing_methods(evidence, scale, read_tuned()), read_runs()
    return sum(expected_runs(runs, scale, method) for method in missing)


def plan(evidence: Losses, scale: str, workers: int) -> str:
    """What is to come, in words."""
    runs = runs_of(evidence, scale)
    if not runs:
        return f"finished at {scale} scale"
    minutes = minutes_of(evidence, scale, workers)
    return f"about {runs} runs at {scale} scale, {minutes:.0f} minutes"


def largest(evidence: Losses, minutes: float, workers: int) -> str:
    """The largest scale that fits; the smallest where none does, or nothing limits it."""
    scales = evidence.scales
    fitting = [scale for scale in scales if minutes_of(evidence, scale, workers) <= minutes]
    return scales[0] if minutes == float("inf") or not fitting else fitting[-1]


def cheapest_first(claims: Iterable[Claim]) -> list[Claim]:
    """By what they need at the smallest scale."""

    def cost(claim: Claim) -> float:
        if isinstance(claim.evidence, Losses):
            return minutes_of(claim.evidence, claim.evidence.scales[0], 1)
        return claim.evidence.minutes

    return sorted(claims, key=cost)


def main() -> None:
    """Makes, plans or prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("claims", nargs="*", metavar="CLAIM", help="; ".join(CLAIMS))
    parser.add_argument("--scale", choices=(*SCALES, "paper"), help="by default what fits --budget")
    parser.add_argument("--budget", type=float, metavar="MINUTES")
    parser.add_argument("--plan", action="store_true", help="print runs and minutes, make nothing")
    parser.add_argument("--workers", type=int, default=2, help="single-threaded processes")
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("runs/recipes.npz"))
    parser.add_argument("--allow-dirty", action="store_true")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.claims if name not in CLAIMS]:
        parser.error(f"no claim {', '.join(map(repr, unknown))}: choose from {', '.join(CLAIMS)}")
    claims = cheapest_first(CLAIMS[name] for name in arguments.claims or CLAIMS)
    if arguments.scale == "paper":
        for claim in claims:
            print(f"# {claim.name}\n{describe(claim)}")
        return
    if arguments.plan:
        print(overview(claims, arguments.scale, arguments.workers))
        return
    # The SVD of jaxlib 0.10 waits for threads of the pool that it runs on: one is not enough.
    os.environ.setdefault("NPROC", "8")
    check_clean(arguments.allow_dirty)
    FOLDER.mkdir(parents=True, exist_ok=True)
    session = Session(arguments.scale, arguments.budget, arguments.data, arguments.workers)
    with contextlib.closing(session):
        for claim in claims:
            session.make(claim)


def overview(claims: Iterable[Claim], scale: str | None, workers: int) -> str:
    """What every claim needs, a line each; at the smallest scale of each for None."""
    lines = []
    for claim in claims:
        evidence = claim.evidence
        if isinstance(evidence, Losses):
            at = evidence.at(scale)
            lines.append(f"{claim.name}: {plan(evidence, at, workers) if at else ABSENT}")
        elif (RESULTS / f"{evidence.file}.json").exists():
            lines.append(f"{claim.name}: measured")
        else:
            lines.append(f"{claim.name}: {evidence.minutes:g} minutes at most")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

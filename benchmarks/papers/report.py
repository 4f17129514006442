"""The tables of docs/papers.md, from the JSON alone.

Run from the repository's root: ``python -m benchmarks.papers.report``.
"""

from typing import Any

from benchmarks.pages import CLAIMS, DOCS, RESULTS, fill, read_results, rewrite, tuned_caption
from benchmarks.papers.__main__ import PAPERS
from benchmarks.papers.claims import NOT_RUN, Claim, Losses, Outcome, Paper, together
from benchmarks.papers.training import (
    Tuned,
    bytes_per_entry,
    loss_rows,
    outcomes,
    read_runs,
    read_tuned,
)
from benchmarks.tables import markdown_table

PAGE = DOCS / CLAIMS

Row = tuple[str, ...]


def read(file: str) -> dict[str, Any] | None:
    """A benchmark's JSON, if it is there."""
    return read_results(file) if (RESULTS / f"{file}.json").exists() else None


def found(claim: Claim, tuned: Tuned) -> tuple[str, list[Outcome]]:
    """What there is of a claim, and at which scale: the largest that is finished, or begun."""
    if not isinstance(claim.evidence, Losses):
        results = read(claim.evidence.file)
        return "", claim.evidence.read(results) if results is not None else []
    best: tuple[str, list[Outcome]] = ("", [])
    fewest = len(claim.evidence.comparisons)
    for scale in claim.evidence.scales:
        looked_at = outcomes(claim.evidence, scale, tuned)
        missing = sum(outcome.verdict == NOT_RUN for outcome in looked_at)
        if missing < len(looked_at) and missing <= fewest:
            best, fewest = (scale, looked_at), missing
    return best


def command(claim: Claim) -> str:
    """What makes a claim's results."""
    if not isinstance(claim.evidence, Losses) and claim.evidence.measure is None:
        return claim.evidence.command
    return f"python -m benchmarks.papers {claim.name}"


def row(claim: Claim, tuned: Tuned) -> Row:
    """A claim's line."""
    scale, looked_at = found(claim, tuned)
    verdicts = [outcome.verdict for outcome in looked_at]
    here = f"{scale}: " if scale else ""
    return (
        f"{claim.where}: {claim.says}",
        f"`{command(claim)}`",
        here + _counted(verdicts) if verdicts else "–",
        claim.published,
        f"**{together(verdicts)}**",
    )


def _counted(verdicts: list[str]) -> str:
    if len(verdicts) == 1:
        return "one, below"
    counts = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
    return ", ".join(f"{count} × {verdict}" for verdict, count in counts.items())


def details(claim: Claim, tuned: Tuned, runs: list[dict[str, Any]]) -> str:
    """What was looked at, one by one; "" where there is nothing yet."""
    scale, looked_at = found(claim, tuned)
    if not looked_at:
        return ""
    parts = [f"### {claim.name}", f"{claim.says[0].upper()}{claim.says[1:]}."]
    if claim.note:
        parts.append(claim.note)
    rows = [(outcome.what, outcome.here, outcome.verdict) for outcome in looked_at]
    parts.append(markdown_table(("looked at", "here", "verdict"), rows))
    if isinstance(claim.evidence, Losses):
        header = ("method", "bytes per entry", "tuned", "validation loss")
        rows = loss_rows(claim.evidence, scale, tuned, bytes_per_entry(scale, runs))
        parts += [tuned_caption(scale), markdown_table(header, rows)]
    return "\n\n".join(parts)


def section(paper: Paper, tuned: Tuned, runs: list[dict[str, Any]]) -> str:
    """A paper's table, and its details."""
    header = ("claim", "command", "here", "paper", "verdict")
    parts = [markdown_table(header, [row(claim, tuned) for claim in paper.claims])]
    parts += [text for claim in paper.claims if (text := details(claim, tuned, runs))]
    return "\n\n".join(parts)


def render(page: str) -> str:
    """The page with its tables made anew."""
    tuned, runs = read_tuned(), read_runs()
    return fill(page, {paper.name: section(paper, tuned, runs) for paper in PAPERS})


def main() -> None:
    """Writes docs/papers.md."""
    rewrite(PAGE, render)


if __name__ == "__main__":
    main()

"""What a run reads, and what it has written, as tests compare it."""

from rich.console import Console

from training.commands.prepare import PrepareConfig, prepare
from training.runs.metrics import read_metrics

TIMED = ("seconds", "tokens_per_second")


def curve(folder):
    """The records of a run without what the clock wrote."""
    records = read_metrics(folder / "metrics.jsonl")
    return [{name: x for name, x in record.items() if name not in TIMED} for record in records]


def values(folder, name="loss"):
    """A quantity, where it is recorded."""
    return [record[name] for record in curve(folder) if name in record]


def write_texts(folder):
    """Ten files of text, no two alike."""
    for i in range(10):
        lines = [f"file {i} line {j}: {i * j} and {i + j} are numbers.\n" for j in range(40)]
        (folder / f"{i}.txt").write_text("".join(lines))
    return folder


def prepared(data, out, **options):
    """The folder of what `train.py prepare` makes of data."""
    prepare(PrepareConfig(data=str(data), out=out, **options), Console(quiet=True))
    return str(out)

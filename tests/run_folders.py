"""What a run has written, as tests compare it."""

from training.runs.metrics import read_metrics

TIMED = ("seconds", "tokens_per_second")


def curve(folder):
    """The records of a run without what the clock wrote."""
    records = read_metrics(folder / "metrics.jsonl")
    return [{name: x for name, x in record.items() if name not in TIMED} for record in records]


def values(folder, name="loss"):
    """A quantity, where it is recorded."""
    return [record[name] for record in curve(folder) if name in record]

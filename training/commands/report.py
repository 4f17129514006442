"""`train.py report`: runs as curves against tokens and time, and as a table, in one file."""

import dataclasses

import tyro
from etils import epath
from rich.console import Console

from training.checkpoints.origin import CHECKPOINTS
from training.config.options import Folder
from training.config.record import CONFIG_FILE, recorded_options
from training.errors import UserError
from training.files import absolute, read_json, walk, writing_to
from training.reports.curves import draw_report
from training.reports.html import write_html
from training.reports.plots import write_png
from training.reports.table import ReportedRun, console_table, notes, table_rows
from training.runs.metrics import METRICS_FILE, read_metrics

FORMATS = (".html", ".png")


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Draw the losses of runs against tokens and against wall time, with a table of the runs."""

    runs: tyro.conf.Positional[tuple[Folder, ...]]
    """Folders of runs, or folders that hold some at any depth."""
    out: Folder = dataclasses.field(default=epath.Path("report.html"))
    """File to write: .html (self-contained, with the table) or .png (the curves)."""


def report(config: ReportConfig, console: Console) -> None:
    """Reads the runs, writes the report and prints its table."""
    suffix = config.out.suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"--out {config.out}: its ending must be one of {', '.join(FORMATS)}")
    if config.out.is_dir() or not config.out.parent.is_dir():
        what = "is a folder" if config.out.is_dir() else "is in a folder that does not exist"
        raise UserError(f"--out {config.out} {what}: give the path of a file to write")
    folders = [folder for path in config.runs for folder in find_runs(path)]
    runs = read_runs(list(dict.fromkeys(absolute(folder) for folder in folders)))
    figure, rows = draw_report(runs), table_rows(runs)
    with writing_to(config.out):
        if suffix == ".png":
            write_png(figure, config.out)
        else:
            write_html(figure, rows, notes(runs), config.out)
    console.print(console_table(rows))
    console.print(f"{len(runs)} run(s) in {config.out}", highlight=False)


def find_runs(path: epath.PathLike) -> list[epath.Path]:
    """The folders of runs at a path and below it, in order."""
    path = epath.Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder; give the folder of a run (--out of it)")
    # Checkpoints have many files, and no runs among them.
    found = [
        folder
        for folder, files in walk(path, leave_out=[CHECKPOINTS])
        if {CONFIG_FILE, METRICS_FILE} <= {file.name for file in files}
    ]
    if not found:
        missing = METRICS_FILE if (path / CONFIG_FILE).exists() else CONFIG_FILE
        raise UserError(
            f"{path}: neither a run (it has no {missing}) nor a folder that holds any; give the "
            "--out of pretrain, finetune or compare"
        )
    return found


def read_runs(folders: list[epath.Path]) -> list[ReportedRun]:
    """Reads runs from distinct folders."""
    return [_read(*run) for run in zip(folders, distinct_names(folders), strict=True)]


def distinct_names(folders: list[epath.Path]) -> list[str]:
    """The last parts of paths, as many as tell them apart.

    >>> distinct_names([epath.Path("/a/x/run"), epath.Path("/a/y/run")])
    ['x/run', 'y/run']
    """
    for count in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-count:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("the folders are distinct")


def _read(folder: epath.Path, name: str) -> ReportedRun:
    config = recorded_options(folder)
    for option in ("optimizer", "batch_size", "seq_len"):
        if not config.get(option):
            raise UserError(f"{folder}/{CONFIG_FILE}: it has no {option!r}, so it is no run's")
    records = read_metrics(folder / METRICS_FILE)
    if not records:
        raise UserError(f"{folder}: its {METRICS_FILE} is empty: no step has been recorded yet")
    summary = folder / "summary.json"
    return ReportedRun(name, config, records, read_json(summary) if summary.exists() else {})

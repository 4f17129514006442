"""metrics.jsonl, in memory and in a bucket, the progress line, and JSON that all can read."""

import io
import json
import math

import pytest
from etils import epath
from rich.console import Console

from training.config.record import to_json
from training.errors import UserError
from training.files import write_json
from training.runs.folder import check_run_folder, create_run_folder
from training.runs.metrics import RECENT, MetricsLog, read_metrics
from training.runs.progress import ProgressLine
from training.runs.summary import final_train_loss


def records(*steps):
    return [{"step": step, "loss": 1 / step, "seconds": 0.5 * step} for step in steps]


@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_a_log_goes_on_after_its_last_step_and_keeps_few_records_in_memory(tmp_path, bucket, where):
    path = (epath.Path(tmp_path) if where == "disk" else bucket / "run") / "metrics.jsonl"
    log = MetricsLog(path, 0)
    for record in records(*range(1, 2 * RECENT + 1)):
        log.write(record)
    log.sync()
    assert read_metrics(path)[-1]["step"] == 2 * RECENT  # before it is closed
    log.write(records(2 * RECENT + 1)[0])
    log.close()
    log = MetricsLog(path, 2 * RECENT - 10)
    log.write(records(2 * RECENT - 9)[0])
    log.close()
    assert read_metrics(path) == records(*range(1, 2 * RECENT - 8))
    assert list(log.recent) == read_metrics(path)[-RECENT:]
    assert final_train_loss(log.recent) == pytest.approx(
        sum(record["loss"] for record in read_metrics(path)[-19:]) / 19
    )


def test_only_the_first_process_writes(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", 0, write=False)
    log.write(records(1)[0])
    log.close()
    assert list(log.recent) == records(1)
    assert not list(tmp_path.iterdir())


def test_a_broken_line_of_metrics_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo\n{"step": 3, "loss": 1.0}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is not a record .*Repair"):
        read_metrics(path)


def test_a_validation_loss_is_shown_once(tmp_path):
    console = Console(file=io.StringIO(), width=200)
    with ProgressLine(console, 4, 0, 10) as line:
        for record in records(1, 2, 3, 4):
            more = {"val_loss": 7.0, "val_loss/code": 5.0} if record["step"] == 2 else {}
            line.show(record | more | {"tokens_per_second": 5.0})
    assert console.file.getvalue().count("val loss 7.0000") == 1
    line = "step 2/4 | loss 0.5000 | val loss 7.0000, code 5.0000 | 5 tokens/s | ETA 4 s"
    assert line in console.file.getvalue()


def test_numbers_that_are_not_finite_are_null(tmp_path):
    write_json(tmp_path / "file.json", {"grid": {0.1: math.inf}, "losses": [math.nan, 1.5]})
    content = json.loads((tmp_path / "file.json").read_text(), parse_constant=pytest.fail)
    assert content == {"grid": {"0.1": None}, "losses": [None, 1.5]}
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


def test_a_runs_folder_may_be_in_a_bucket(trainer, bucket):
    config = trainer.config(bucket / "run")
    data = trainer.corpus(config)
    check_run_folder(config, data)
    create_run_folder(config.folder, to_json(config.options, data.checksum))
    assert json.loads((bucket / "run/config.json").read_text())["out"] == "gs://bucket/run"
    with pytest.raises(UserError, match=r"gs://bucket/run exists already"):
        check_run_folder(config, data)
    check_run_folder(trainer.config(bucket / "run", resume=True), data)

import contextlib
import json
import signal
import struct
import sys

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from training.errors import UserError
from training.runs.interruption import InterruptedRunError
from training.runs.metrics import MetricsLog, read_metrics
from training.runs.writers import parse_writers, to_tensorboard, to_wandb

pytestmark = pytest.mark.slow


def records(*steps):
    return [{"step": step, "loss": 1 / step, "seconds": 0.5 * step} for step in steps]


def scalars(folder):
    """What TensorBoard reads: name -> [(step, value)], in the order of the file."""
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def write(open_writer, folder, before, after, config=None):
    """As a run does that has some records and makes others."""
    with contextlib.ExitStack() as stack:
        writer = open_writer(folder, before, config or {}, stack)
        for record in after:
            writer(record)


def test_tensorboard_reads_every_number_at_its_step(tmp_path):
    named = [{**record, "note": "text is no scalar"} for record in records(1, 2, 3)]
    write(to_tensorboard, tmp_path, [], named)
    assert scalars(tmp_path) == {
        "loss": [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))],
        "seconds": [(1, 0.5), (2, 1.0), (3, 1.5)],
    }


def test_tensorboard_has_no_step_twice_after_a_resume(tmp_path):
    write(to_tensorboard, tmp_path, [], records(1, 2, 3, 4, 5))
    write(to_tensorboard, tmp_path, records(1, 2, 3), records(4, 5, 6))
    assert [step for step, _ in scalars(tmp_path)["loss"]] == [1, 2, 3, 4, 5, 6]


def test_events_are_a_run_s_metrics_if_it_gets_its_writer_at_a_resume_too(
    trainer, tmp_path, signal_at
):
    config = trainer.config(tmp_path / "run")
    signal_at(3, signal.SIGTERM)
    with pytest.raises(InterruptedRunError):
        trainer(config)
    trainer(trainer.changed(config, resume=True, log="tensorboard"))
    metrics, found = read_metrics(config.folder / "metrics.jsonl"), scalars(config.folder)
    assert [record["step"] for record in metrics] == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "val_loss", "grad_norm", "learning_rate"):
        expected = [(record["step"], record[name]) for record in metrics if name in record]
        assert dict(found[name]) == pytest.approx(dict(expected)), name


@pytest.fixture
def offline(monkeypatch):
    """Weights & Biases on this machine alone, and silent."""
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)


def stored(path):
    """The records of a .wandb file: a log of LevelDB's format after a header of seven bytes."""
    data, position, record = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if (room := 2**15 - position % 2**15) < 7:
            position += room
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def sent(folder):
    """What is kept for the server: [(id, project, name, [(step, loss)])], by part of the run."""
    wandb.teardown()  # as at the program's end, which waits until all is written
    parts = []
    for path in sorted(folder.glob("*/offline-run-*/*.wandb")):
        run, history = None, []
        for record in stored(path):
            if record.WhichOneof("record_type") == "run":
                run = record.run
            if record.WhichOneof("record_type") == "history":
                items = {
                    (item.key or "/".join(item.nested_key)): json.loads(item.value_json)
                    for item in record.history.item
                }
                history.append((items["_step"], items["loss"]))
        parts.append((run.run_id, run.project, run.display_name, history))
    return parts


def test_weights_and_biases_keeps_a_run_as_one_over_a_resume(tmp_path, offline):
    config = {"optimizer": "trion"}
    write(to_wandb, tmp_path, [], records(1, 2, 3), config)
    # Its folders are named by the second that they are made in.
    (tmp_path / "wandb").rename(tmp_path / "before")
    write(to_wandb, tmp_path, records(1, 2), records(3, 4), config)
    identifier = (tmp_path / "wandb_id.txt").read_text().strip()
    loss = lambda *steps: [(step, 1 / step) for step in steps]
    name = tmp_path.name
    assert sent(tmp_path) == [
        (identifier, "lowrank_optax", name, loss(1, 2, 3)),
        (identifier, "lowrank_optax", name, loss(3, 4)),  # the server ignores a step that it has
    ]


def test_weights_and_biases_gets_the_records_before_it_came(tmp_path, offline):
    write(to_wandb, tmp_path, records(1, 2), records(3))
    assert sent(tmp_path)[0][-1] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


def test_a_refusal_of_weights_and_biases_names_the_remedies(tmp_path, monkeypatch):
    def refuse(**_):
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match=r"--log wandb: .*No API key.*wandb login.*WANDB_MODE=off"):
        write(to_wandb, tmp_path, [], [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_reported_before_anything_is_written(
    trainer, tmp_path, monkeypatch, name
):
    monkeypatch.setitem(sys.modules, name, None)
    remedy = rf"package {name}, which is not installed.*pip install -e \"\.\[{name}\]\""
    with pytest.raises(UserError, match=remedy):
        trainer.config(tmp_path / "run", log=name)
    assert not list(tmp_path.iterdir())


def test_an_unknown_writer_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"--log tensorbord: unknown 'tensorbord'.*'tensorboard'"):
        parse_writers("tensorbord")


def test_names_are_a_list_without_repetition():
    assert parse_writers(" wandb, tensorboard,wandb,") == ["wandb", "tensorboard"]
    assert parse_writers("") == []


def test_only_the_process_that_writes_metrics_writes_copies(tmp_path):
    for write, expected in ((True, records(1)), (False, [])):
        log, copied = MetricsLog(tmp_path / f"{write}.jsonl", 0, write=write), []
        log.copies.append(copied.append)
        log.write(records(1)[0])
        log.close()
        assert copied == expected

"""The training loop's promises: its files, resuming bit for bit, and stopping cleanly."""

import dataclasses
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from run_folders import curve

from training.checkpoints.manager import Checkpoints
from training.checkpoints.reader import CheckpointReader
from training.config.record import to_json
from training.errors import UserError
from training.runs.interruption import InterruptedRunError
from training.runs.metrics import MetricsLog, read_metrics


@pytest.fixture(scope="module")
def whole(trainer, tmp_path_factory):
    """The configuration of a run that nothing happens to, its summary and what it printed."""
    config = trainer.config(tmp_path_factory.mktemp("whole") / "run")
    return config, *trainer(config)


def test_run_folder_holds_config_metrics_summary_plot_and_checkpoints(whole):
    config, summary, printed = whole
    folder = config.folder
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "data.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "summary.json",
        "loss.png",
        "checkpoints",
    }
    records = read_metrics(folder / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert [record["step"] for record in records if "val_loss" in record] == [3, 6]
    for record in records:
        assert {"loss", "grad_norm", "learning_rate", "seconds", "tokens_per_second"} <= set(record)
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert summary["step"] == 6
    assert summary["val_loss"] == records[-1]["val_loss"]
    assert summary["val_perplexity"] == pytest.approx(np.exp(summary["val_loss"]))
    assert summary["train_loss"] == records[-1]["loss"]
    assert summary["optimizer_state_bytes"] >= 2 * 4 * summary["parameters"]
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "step 6/6 | loss" in printed


def test_validation_losses_come_in_bits_per_byte_too(trainer, whole):
    corpus = trainer.corpus(whole[0])
    for record in curve(whole[0].folder):
        assert ("val_loss" in record) == ("val_bits_per_byte" in record)
        if "val_loss" in record:
            assert record["val_bits_per_byte"] == corpus.bits_per_byte(record["val_loss"])
            assert record["val_bits_per_byte"] == pytest.approx(
                record["val_loss"] / np.log(2), rel=0.01
            )


def test_training_lowers_the_loss(trainer, tmp_path):
    config = trainer.config(tmp_path / "run", steps=60, learning_rate=0.01, warmup_steps=0)
    trainer(trainer.changed(config, checkpoint_every=0, eval_every=0), trainer.steps(config))
    losses = [record["loss"] for record in curve(tmp_path / "run")]
    assert losses[-1] < losses[0] - 1.5


@pytest.mark.product(every=2)
@pytest.mark.parametrize(
    ("number", "optimizer"), [(signal.SIGINT, "adamw"), (signal.SIGTERM, "trion")]
)
def test_resume_after_a_signal_is_bit_for_bit(trainer, tmp_path, signal_at, number, optimizer):
    whole, parts = (
        trainer.config(tmp_path / name, optimizer=optimizer) for name in ("whole", "parts")
    )
    trainer(whole)
    before = signal.getsignal(number)
    signal_at(3, number)
    with pytest.raises(InterruptedRunError, match=r"stopped after step \d; saved .*checkpoints"):
        trainer(parts)
    assert signal.getsignal(number) is before
    assert len(curve(tmp_path / "parts")) < 6
    trainer(trainer.changed(parts, resume=True))
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")


@pytest.mark.product(every=3)
@pytest.mark.parametrize("moment", ["evaluate", "save", "wait"])
def test_a_signal_in_an_evaluation_or_a_save_is_followed_by_a_whole_checkpoint(
    trainer, tmp_path, whole, monkeypatch, moment
):
    parts = trainer.config(tmp_path / "parts")
    steps, sent = trainer.steps(parts), []

    def signalling(function):
        def call(*arguments):
            if not sent:
                sent.append(moment)
                signal.raise_signal(signal.SIGTERM)
            return function(*arguments)

        return call

    if moment in ("save", "wait"):
        manager = ocp.CheckpointManager
        name = {"save": "save", "wait": "check_for_errors"}[moment]
        original = getattr(manager, name)
        called = signalling(lambda self: None)
        monkeypatch.setattr(
            manager, name, lambda self, *a, **k: (called(self), original(self, *a, **k))[1]
        )
    else:
        steps = dataclasses.replace(steps, **{moment: signalling(getattr(steps, moment))})
    with pytest.raises(InterruptedRunError, match=r"stopped after step \d; saved .*checkpoints"):
        trainer(parts, steps)
    assert sent
    monkeypatch.undo()
    trainer(trainer.changed(parts, resume=True))
    assert curve(tmp_path / "parts") == curve(whole[0].folder)


def test_a_run_killed_as_its_folder_is_made_can_be_started_again(trainer, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.tmp").write_text('{"opt')
    summary, _ = trainer(trainer.config(tmp_path / "run"))
    assert summary["step"] == 6
    assert not (tmp_path / "run/config.tmp").exists()


@pytest.mark.slow
def test_a_mixture_resumes_bit_for_bit_and_on_other_validation_sets(trainer, tmp_path, signal_at):
    (tmp_path / "sums.txt").write_text("".join(f"{i} + {i} = {2 * i}\n" for i in range(300)))
    sources = {"data": (str(trainer.corpus_folder), str(tmp_path / "sums.txt"))}
    sets = {"validation_sets": (f"sums={tmp_path}/sums.txt", f"texts={trainer.corpus_folder}")}
    whole = trainer.config(tmp_path / "whole", **sources, data_weights=(3, 1), **sets)
    summary, printed = trainer(whole)
    parts = trainer.config(tmp_path / "parts", **sources, data_weights=(3, 1))
    signal_at(3, signal.SIGTERM)
    with pytest.raises(InterruptedRunError):
        trainer(parts)
    with pytest.raises(UserError, match=r"data_weights: \[3, 1\] before, \[1, 1\] now"):
        trainer(trainer.changed(parts, data_weights=(1, 1), resume=True))
    one = trainer.changed(parts, data=sources["data"][:1], data_weights=(), resume=True)
    with pytest.raises(UserError, match=r"\n  data: \[.*sums.txt'\] before, \['[^,]*'\] now"):
        trainer(one)
    trainer(trainer.changed(parts, **sets, resume=True))
    *before, last = curve(parts.folder)
    expected = curve(whole.folder)
    assert last == expected[-1]
    assert before == [
        {key: value for key, value in record.items() if "/" not in key} for record in expected[:-1]
    ]
    others = {f"val_loss/{name}": last[f"val_loss/{name}"] for name in ("sums", "texts")}
    assert len({last["val_loss"], *others.values()}) == 3
    assert summary == summary | others
    assert f", sums {others['val_loss/sums']:.4f}, texts" in printed


def test_resume_after_a_crash_drops_the_records_past_the_checkpoint(
    trainer, tmp_path, whole, monkeypatch
):
    write = MetricsLog.write

    def crash_at_step_five(self, record):
        write(self, record)
        if record["step"] == 5:
            raise MemoryError

    config = trainer.config(tmp_path / "parts")
    monkeypatch.setattr(MetricsLog, "write", crash_at_step_five)
    with pytest.raises(MemoryError):
        trainer(config)
    monkeypatch.undo()
    assert len(curve(tmp_path / "parts")) == 5
    with (tmp_path / "parts/metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 6, "lo')
    trainer(trainer.changed(config, resume=True))
    assert curve(tmp_path / "parts") == curve(whole[0].folder)


@pytest.mark.slow
def test_a_resume_whose_checkpoint_does_not_fit_changes_nothing(trainer, tmp_path):
    folder = tmp_path / "run"
    trainer(trainer.config(folder))
    # As if this configuration had meant another optimizer state when the run was started.
    config = trainer.config(folder, optimizer="sgd", resume=True)
    written = json.dumps(to_json(config.options, trainer.corpus(config).checksum))
    (folder / "config.json").write_text(written)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(UserError, match=r"checkpoints/6 is of another(?s:.*)state/1/0/mu/"):
        trainer(config)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert (folder / "config.json").read_text() == written


def test_resuming_a_finished_run_changes_nothing(trainer, tmp_path):
    config = trainer.config(tmp_path / "run")
    first, _ = trainer(config)
    again, _ = trainer(trainer.changed(config, resume=True))
    assert again == first


def test_second_ctrl_c_stops_at_once(trainer, tmp_path, signal_at, monkeypatch):
    monkeypatch.setattr(Checkpoints, "wait", lambda self: signal.raise_signal(signal.SIGINT))
    signal_at(2, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer(trainer.config(tmp_path / "run"))


@pytest.mark.slow
def test_bfloat16_parameters_stay_bfloat16(trainer, tmp_path):
    bfloat16 = {"dtype": "bfloat16", "param_dtype": "bfloat16"}
    config = trainer.config(tmp_path / "run", accumulate_steps=2, **bfloat16)
    trainer(config)
    steps = trainer.steps(config)
    state, _ = CheckpointReader(tmp_path / "run/checkpoints").read(6, steps.abstract_state)
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("bfloat16")}


@pytest.mark.slow
def test_seeds_differ_and_equal_seeds_do_not(trainer, tmp_path, whole):
    for seed in (0, 1):
        trainer(trainer.config(tmp_path / str(seed), seed=seed))
    assert curve(whole[0].folder) == curve(tmp_path / "0")
    assert curve(whole[0].folder)[0]["loss"] != curve(tmp_path / "1")[0]["loss"]

"""The one command for a session that is lent an accelerator works before it is lent one."""

import dataclasses
import importlib
import json

import jax
import pytest

from benchmarks.accelerator import training, updates
from benchmarks.accelerator.record import Record
from benchmarks.accelerator.sizes import FULL, SMOKE
from benchmarks.methods import EVERY_STEP, METHODS
from models.configs import get_config, parameter_count

# The package's __main__ is a module like any other, but no test may start it as a program.
accelerator = importlib.import_module("benchmarks.accelerator.__main__")

HERE = {"device_kind": "cpu", "git_commit": "a" * 40}


@pytest.mark.slow
def test_all_of_it_runs_small_and_is_saved(tmp_path, capsys):
    out = tmp_path / "accelerator.json"
    accelerator.main(["--smoke", "--out", str(out)])
    measurements = json.loads(out.read_text())["measurements"]
    parts = {each["part"] for each in measurements}
    assert parts == set(accelerator.PARTS)
    assert [each for each in measurements if "error" in each["result"]] == []
    assert all(each["smoke"] and each["git_commit"] for each in measurements)
    for each in measurements:
        assert {len(samples) for samples in each["result"]["seconds"].values()} == {7}
    printed = capsys.readouterr().out
    for name, part in accelerator.PARTS.items():
        items = part.items(SMOKE)
        assert {each["item"] for each in measurements if each["part"] == name} == set(items)
        table = part.table(
            {each["item"]: each["result"] for each in measurements if each["part"] == name}
        )
        assert table in printed


@pytest.fixture
def one_part(monkeypatch):
    """A part of two items that says when it measures one."""
    measured = []

    def item(name):
        def measure():
            measured.append(name)
            return {"value": len(measured)}

        return measure

    part = accelerator.Part(lambda size: {name: item(name) for name in "ab"}, str, minutes=1)
    monkeypatch.setattr(accelerator, "PARTS", {"part": part})
    return measured


def test_what_is_there_for_this_commit_and_device_is_not_measured_again(tmp_path, one_part):
    out = tmp_path / "results.json"
    run = lambda again=False, **changed: accelerator.run_part(
        "part", SMOKE, Record(out, HERE | changed, smoke=False), again=again
    )
    assert run() == []
    assert one_part == ["a", "b"]
    run()
    assert one_part == ["a", "b"]
    run(again=True)
    assert one_part == ["a", "b"] * 2
    run(git_commit="b" * 40)
    run(device_kind="NVIDIA H100")
    assert one_part == ["a", "b"] * 4
    # Measured again takes the place of what was there; others stay.
    measurements = json.loads(out.read_text())["measurements"]
    assert [each["result"]["value"] for each in measurements] == [3, 4, 5, 6, 7, 8]


def test_small_figures_never_stand_for_large_ones(tmp_path, one_part):
    for smoke in (True, False):
        record = Record(tmp_path / "results.json", HERE, smoke=smoke)
        accelerator.run_part("part", SMOKE, record, again=False)
    assert one_part == ["a", "b"] * 2


def test_items_that_time_did_not_suffice_for_are_named_and_come_next_time(tmp_path, one_part):
    part = accelerator.PARTS["part"]
    record = Record(tmp_path / "results.json", HERE, smoke=False)
    accelerator.PARTS["part"] = dataclasses.replace(part, minutes=0)
    assert accelerator.run_part("part", SMOKE, record, again=False) == ["a", "b"]
    accelerator.PARTS["part"] = part
    assert accelerator.run_part("part", SMOKE, record, again=False) == []
    assert one_part == ["a", "b"]


def test_a_failure_is_told_and_saved_and_costs_the_others_nothing(tmp_path, one_part, monkeypatch):
    def broken():
        raise ValueError("no such kernel")

    items = accelerator.PARTS["part"].items(SMOKE)
    part = accelerator.Part(lambda size: items | {"a": broken}, str, minutes=1)
    monkeypatch.setitem(accelerator.PARTS, "part", part)
    out = tmp_path / "results.json"
    with pytest.raises(SystemExit, match="no such kernel"):
        accelerator.main(["--smoke", "--out", str(out)])
    record = Record(out, json.loads(out.read_text())["measurements"][0]["environment"], smoke=True)
    assert record.failures("part") == {"a": "ValueError: no such kernel"}
    assert set(record.results("part")) == {"b"}


def test_outside_a_repository_the_commit_must_be_told(monkeypatch):
    monkeypatch.setattr(accelerator, "git_commit", lambda: None)
    with pytest.raises(SystemExit, match="--commit"):
        accelerator.described(accelerator.parse([]))
    told = accelerator.described(accelerator.parse(["--commit", "abc", "--part", "updates-1b"]))
    assert told["git_commit"] == "abc"
    assert told["command"] == "python -m benchmarks.accelerator --part updates-1b"


def test_the_parts_together_take_less_than_half_an_hour():
    minutes = [part.minutes for part in accelerator.PARTS.values()]
    assert sum(minutes) < 30
    assert max(minutes) + 2 <= 8


def test_everything_is_compared():
    assert set(FULL.updated) == {*METHODS, *EVERY_STEP}
    assert set(FULL.optimizers) == set(METHODS) - {"optax.contrib.galore"}


@pytest.mark.parametrize("name", ["350m", "1b"])
def test_the_matrices_that_are_updated_are_a_layers(name):
    config = get_config(name)
    shapes = jax.eval_shape(lambda: updates.layer.__wrapped__(config, "float32"))
    entries = sum(leaf.size for leaf in shapes.values())
    layers, norms = config.num_layers, 2 * config.hidden_size
    in_layers = parameter_count(config, embeddings=False) - config.hidden_size
    assert layers * (entries + norms) == in_layers


@pytest.mark.slow
def test_where_the_device_counts_its_memory_a_training_step_has_its_own_process(monkeypatch):
    class Counting:
        @staticmethod
        def memory_stats():
            return {"peak_bytes_in_use": 0}

    monkeypatch.setattr(training.jax, "local_devices", lambda: [Counting])
    result = training.measure_apart("optax.adamw", SMOKE, "float32")
    # This process would have counted: the other one has a real CPU, which does not.
    assert result["peak_bytes"] is None
    assert result["compiled_bytes"] > result["state_bytes"] > 0

"""Going on after damage, and under another optimizer: what is kept, and that it is said."""

import dataclasses
import json
import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.checkpoints.conversion import kept_arrays
from training.checkpoints.history import with_change

import lowrank_optax as lro
import train
from training.checkpoints.manager import Checkpoints
from training.checkpoints.trees import by_path
from training.errors import UserError
from training.runs.metrics import MetricsLog, read_metrics
from training.steps.spikes import skip_spikes


def curve(folder):
    """The records of a run without what the clock wrote."""
    timed = ("seconds", "tokens_per_second")
    return [
        {key: value for key, value in record.items() if key not in timed}
        for record in read_metrics(folder / "metrics.jsonl")
    ]


def one_line(printed):
    return " ".join(printed.split())


def cut_largest_file(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    path = max(files, key=lambda path: path.stat().st_size)
    os.truncate(path, path.stat().st_size // 2)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.fixture(scope="module")
def finished(trainer, tmp_path_factory):
    """The folder of a run of six steps, with checkpoints at 4 and 6."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    trainer(trainer.config(folder))
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def weights(folder, step, trainer, config):
    checkpoints = Checkpoints(folder / "checkpoints", keep=2)
    state, _ = checkpoints.read(step, trainer.steps(config).abstract_state)
    checkpoints.close()
    return by_path(state.params)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut_largest_file, r"state/ocdbt\S+ has [\d,]+ bytes instead of [\d,]+"),
        (lambda folder: (folder / "state/_METADATA").unlink(), "state/_METADATA is missing"),
        (empty, "files.json is missing: it is not complete"),
        (lambda folder: (folder / "data/metadata").write_text("{"), "data/metadata has 1 bytes"),
    ],
)
def test_a_damaged_checkpoint_is_moved_aside_and_the_one_before_continued(
    trainer, finished, run, damage, reason
):
    damage(run / "checkpoints/6")
    contents = sorted(path.name for path in (run / "checkpoints/6").rglob("*"))
    _, printed = trainer(trainer.config(run, resume=True))
    printed = one_line(printed)
    assert f"checkpoint {run}/checkpoints/6 cannot be read: " in printed
    assert re.search(reason, printed)
    assert f"moved it to {run}/unreadable-checkpoints/6" in printed
    assert "continuing from the checkpoint before, of step 4" in printed
    kept = run / "unreadable-checkpoints/6"
    assert sorted(path.name for path in kept.rglob("*")) == contents
    assert curve(run) == curve(finished)
    config = trainer.config(run)
    ours, theirs = (weights(folder, 6, trainer, config) for folder in (run, finished))
    assert all((ours[path] == theirs[path]).all() for path in theirs)


def test_without_a_readable_checkpoint_nothing_is_changed_and_all_reasons_are_given(trainer, run):
    cut_largest_file(run / "checkpoints/4")
    empty(run / "checkpoints/6")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(UserError) as failure:
        trainer(trainer.config(run, resume=True))
    lines = str(failure.value).splitlines()
    assert lines[0] == (
        f"cannot resume {run}: none of its checkpoints can be read; nothing was changed"
    )
    assert lines[1] == "  6: files.json is missing: it is not complete"
    assert lines[2].startswith("  4: state/ocdbt")
    assert lines[3].startswith("Restore one of these folders of")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_another_optimizer_is_refused_and_both_ways_to_it_are_named(trainer, run):
    with pytest.raises(UserError) as failure:
        trainer(trainer.config(run, optimizer="sgd", resume=True))
    message = str(failure.value)
    assert "  optimizer: 'adamw' before, 'sgd' now" in message
    assert "--reset-optimizer begins a new optimizer state" in message
    assert "--convert-optimizer keeps what it has in common with the old" in message


def test_another_model_is_refused_whatever_is_asked(trainer, run):
    config = changed(trainer.config(run, num_layers=2, optimizer="sgd", resume=True))
    with pytest.raises(UserError) as failure:
        trainer(config, trainer.steps(trainer.config(run)))
    assert "num_layers: 1 before, 2 now" in str(failure.value)
    assert "--reset-optimizer" not in str(failure.value)


def changed(config, reset=True):
    change = dataclasses.replace(config.change, reset_optimizer=reset, convert_optimizer=not reset)
    return dataclasses.replace(config, change=change)


def test_reset_keeps_parameters_step_and_data_and_is_recorded(trainer, run, monkeypatch):
    config = trainer.config(run, optimizer="sgd", steps=9, resume=True)
    former = json.loads((run / "config.json").read_text())
    before = weights(run, 6, trainer, trainer.config(run))
    start = {}

    def look(self, record):
        start.setdefault("record", record)

    write = MetricsLog.write
    monkeypatch.setattr(MetricsLog, "write", lambda self, r: (look(self, r), write(self, r)))
    steps = trainer.steps(config)

    def spy(state, batch, arguments):
        start.setdefault("state", jax.device_get(state))
        return steps.train(state, batch, arguments)

    _, printed = trainer(changed(config), dataclasses.replace(steps, train=spy))
    assert "new optimizer state after step 6: 0 arrays (0 bytes) kept, " in one_line(printed)
    assert start["state"].step == 6
    for path, array in by_path(start["state"].params).items():
        np.testing.assert_array_equal(array, before[path])
    assert not any(np.any(x) for x in jax.tree.leaves(start["state"].optimizer_state))
    assert start["record"]["step"] == 7
    assert start["record"]["optimizer_arrays_kept"] == 0
    assert start["record"]["optimizer_arrays_new"] > 0
    assert [record["step"] for record in curve(run)] == list(range(1, 10))
    assert sum("optimizer_arrays_new" in record for record in curve(run)) == 1
    written = json.loads((run / "config.json").read_text())
    assert (written["optimizer"], written["steps"]) == ("sgd", 9)
    assert written["before"] == [{**former, "until_step": 6, "optimizer_state": "reset"}]


def test_the_same_command_again_resets_nothing_more(trainer, run):
    config = changed(trainer.config(run, optimizer="sgd", steps=9, resume=True))
    trainer(config)
    first = curve(run)
    shutil.rmtree(run / "checkpoints/9")
    _, printed = trainer(config)
    assert "the optimizer was changed after step 6 already" in one_line(printed)
    assert curve(run) == first
    assert len(json.loads((run / "config.json").read_text())["before"]) == 1


def test_a_change_that_no_checkpoint_has_seen_is_made_again_or_asked_for(trainer, run, monkeypatch):
    config = trainer.config(run, optimizer="sgd", steps=9, resume=True)
    write = MetricsLog.write

    def crash(self, record):
        raise MemoryError

    monkeypatch.setattr(MetricsLog, "write", crash)
    with pytest.raises(MemoryError):
        trainer(changed(config))
    monkeypatch.setattr(MetricsLog, "write", write)
    assert json.loads((run / "config.json").read_text())["optimizer"] == "sgd"
    with pytest.raises(UserError, match=r"(?s)checkpoints/6 is of another.*--reset-optimizer"):
        trainer(config)
    trainer(changed(config))
    before = json.loads((run / "config.json").read_text())["before"]
    assert [(each["optimizer"], each["until_step"]) for each in before] == [("adamw", 6)]


def test_another_hyperparameter_alone_needs_the_change_to_be_made_again_too(trainer, run):
    """The arrays of the checkpoint agree: only config.json tells that they are of before."""
    config = trainer.config(run, learning_rate=0.1, steps=9, resume=True)
    saved = json.loads((run / "config.json").read_text())
    now = {**saved, "learning_rate": 0.1, "fallback_learning_rate": None, "steps": 9}
    before = with_change(saved, 6, reset=False)
    (run / "config.json").write_text(
        json.dumps({**now, "warmup_steps": config.warmup_steps, "before": before})
    )
    with pytest.raises(UserError, match="checkpoints/6 is from before the last change"):
        trainer(config)


def test_conversion_goes_on_with_the_moments_that_fit(trainer, run):
    """Without clipping, AdamW's state is elsewhere in the optimizer's, and complete."""
    config = trainer.config(run, clip_norm=0.0, weight_decay=0.1, steps=9, resume=True)
    steps = trainer.steps(config)
    seen = {}

    def spy(state, batch, arguments):
        seen.setdefault("state", jax.device_get(state))
        return steps.train(state, batch, arguments)

    old_config = trainer.config(run)
    checkpoints = Checkpoints(run / "checkpoints", keep=2)
    old, _ = checkpoints.read(6, trainer.steps(old_config).abstract_state)
    checkpoints.close()
    _, printed = trainer(changed(config, reset=False), dataclasses.replace(steps, train=spy))
    arrays = jax.tree.leaves(seen["state"].optimizer_state)
    assert f"{len(arrays)} arrays (" in one_line(printed)
    assert "kept, 0 (0 bytes) begun anew" in one_line(printed)
    for kept, moment in zip(arrays, jax.tree.leaves(old.optimizer_state), strict=True):
        np.testing.assert_array_equal(kept, moment)
    written = json.loads((run / "config.json").read_text())
    assert written["before"][0]["optimizer_state"] == "converted"


def test_the_history_of_a_checkpoint_from_before_two_changes_is_cut():
    first = with_change({"optimizer": "adamw"}, 4, reset=True)
    second = with_change({"optimizer": "sgd", "before": first}, 8, reset=False)
    assert [(each["optimizer"], each["until_step"]) for each in second] == [
        ("adamw", 4),
        ("sgd", 8),
    ]
    third = with_change({"optimizer": "trion", "before": second}, 2, reset=False)
    assert third == [{"optimizer": "adamw", "until_step": 2, "optimizer_state": "converted"}]


PARAMS = {
    "embedding": jnp.ones((10, 4)),
    "kernel": jnp.ones((6, 4)),
    "other": {"kernel": jnp.ones((4, 6))},
}


def low_rank(build, rank=2, **options):
    return build(0.1, rank, dimension_numbers=None, **options)


def kept(old, new, same_method=False):
    saved = by_path(jax.eval_shape(old.init, PARAMS))
    state = jax.eval_shape(new.init, PARAMS)
    found = kept_arrays(saved, state, same_method=same_method)
    assert found.keys() <= by_path(state).keys()
    assert set(found.values()) <= saved.keys()
    assert len(set(found.values())) == len(found)
    return found, by_path(state).keys() - found.keys()


def test_another_rank_keeps_the_embeddings_moments_with_their_count():
    found, new = kept(low_rank(lro.dct_adamw, 2), low_rank(lro.dct_adamw, 3), same_method=True)
    assert {path.rsplit("/", 1)[1] for path in found} == {"count", "embedding"}
    assert all(path == place for path, place in found.items())
    assert {path.split("/")[1] for path in new} == {"matrices"}


def test_another_low_rank_method_keeps_them_too_but_no_subspaces():
    for old, new in ((lro.frugal, lro.galore), (lro.trion, lro.dct_adamw)):
        found, begun = kept(low_rank(old), low_rank(new))
        assert {path.split("/")[1] for path in found} == {"other"}
        assert {path.split("/")[1] for path in begun} == {"matrices"}


def test_the_same_method_with_another_decay_keeps_everything():
    old, new = low_rank(lro.dct_adamw), low_rank(lro.dct_adamw, b1=0.5, weight_decay=0.1)
    _, begun = kept(old, new, same_method=True)
    assert not begun
    assert kept(old, new)[1]  # but not if its columns mean something else


def test_adamw_gives_its_moments_of_embeddings_to_a_low_rank_method():
    found, begun = kept(optax.adamw(0.1), low_rank(lro.trion))
    assert {path.split("/")[1] for path in found} == {"other"}
    assert set(found.values()) == {"0/count", "0/mu/embedding", "0/nu/embedding"}
    assert {path.split("/")[1] for path in begun} == {"matrices"}


def test_a_low_rank_methods_moments_are_not_enough_for_adamw():
    assert not kept(low_rank(lro.trion), optax.adamw(0.1))[0]


def test_moments_of_another_kind_are_not_taken():
    assert not kept(optax.adamw(0.1), optax.lion(0.1))[0]
    assert not kept(optax.adamw(0.1), optax.adamw(0.1, mu_dtype=jnp.bfloat16))[0]
    assert not kept(optax.sgd(0.1, momentum=0.9), optax.adamw(0.1))[0]


def test_leaving_out_spikes_may_be_switched_on_and_off():
    plain = optax.chain(optax.clip_by_global_norm(1.0), low_rank(lro.trion))
    guarded = skip_spikes(plain, 5.0)
    _, begun = kept(plain, guarded, same_method=True)
    assert begun == {
        "optimizer/step",
        *(f"statistics/{name}" for name in ("skipped", "nonfinite_in_a_row", "count", "mean_norm")),
    }
    assert not kept(guarded, plain, same_method=True)[1]
    assert not kept(guarded, guarded, same_method=True)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reset-optimizer"], "--reset-optimizer is for continuing a run: add --resume"),
        (
            ["--resume", "--reset-optimizer", "--convert-optimizer"],
            "--reset-optimizer and --convert-optimizer exclude each other",
        ),
        (["--rounding", "stochastic"], "--rounding stochastic is for --param-dtype bfloat16"),
        (["--outlier-factor", "1"], "--outlier-factor is 1.0, but must be greater than 1"),
    ],
)
def test_bad_options_are_named(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_command_that_continues_does_not_change_the_optimizer_again():
    command = train.resume_command(["--rank", "4", "--resume", "--convert-optimizer"])
    assert command == "python train.py --rank 4 --resume"


def test_a_damaged_config_is_named(trainer, run):
    (run / "config.json").write_text('{"optimizer": ')
    with pytest.raises(UserError, match=r"config.json is damaged \(Expecting value.*another --out"):
        trainer(trainer.config(run, resume=True))

"""The search over recipes: tuned until the best is interior, every run once, bytes as they are."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.recipes import __main__ as command
from benchmarks.recipes import marks, report, stages, task, texts
from benchmarks.recipes.builders import GRIDS
from benchmarks.recipes.methods import COMPETITORS, METHODS
from benchmarks.recipes.search import Runs, tune
from benchmarks.recipes.task import Setting

TINY = Setting(width=64, steps=2, batch_size=2, seq_len=16)


class Bowl:
    """Runs whose loss is the distance, in grid steps, from the best numbers."""

    def __init__(self, **best):
        self.best, self.asked = best, []

    def losses(self, method, setting, points, seeds, part):
        assert (list(seeds), part) == ([0], "tuning")
        self.asked += points
        position = lambda name, value: min(
            range(len(GRIDS[name])), key=lambda i: abs(GRIDS[name][i] - value)
        )
        apart = lambda point: sum(
            abs(position(name, point[name]) - position(name, value))
            for name, value in self.best.items()
        )
        return [math.nan if point["learning_rate"] > 0.2 else apart(point) for point in points]


@pytest.mark.parametrize("best", [(0.0025, 0.8), (0.08, 0.98), (0.02, 0.9)])
def test_the_search_finds_the_best_numbers_and_has_tried_their_neighbours(best):
    rate, momentum = best
    runs = Bowl(learning_rate=rate, momentum=momentum)
    assert tune(runs, "muon", TINY, None, None) == {"learning_rate": rate, "momentum": momentum}
    tried = {(round(point["learning_rate"], 6), point["momentum"]) for point in runs.asked}
    at = GRIDS["momentum"].index(momentum)
    assert {(rate, GRIDS["momentum"][i]) for i in (at - 1, at, at + 1)} <= tried
    assert {(rate * factor, momentum) for factor in (0.5, 1, 2)} <= tried


def test_only_what_is_asked_for_is_tuned():
    runs = Bowl(learning_rate=0.005, momentum=0.8)
    found = tune(runs, "muon", TINY, {"learning_rate": 0.02, "momentum": 0.95}, ("learning_rate",))
    assert found == {"learning_rate": 0.005, "momentum": 0.95}


def test_a_best_at_an_end_of_its_grid_is_no_result_unless_that_is_zero():
    last = GRIDS["momentum"][-1]
    with pytest.raises(ValueError, match=r"muon in w64-s2-b2 is best at momentum 0\.99, an end of"):
        tune(Bowl(learning_rate=0.02, momentum=last), "muon", TINY, None, None)
    assert tune(Bowl(learning_rate=0.02, momentum=0.0), "muon", TINY, None, None)["momentum"] == 0


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipes") / "tokens.npz"
    text = np.append(np.random.default_rng(0).integers(0, 256, 3000), 256)
    np.savez(path, training=text, tuning=text[:1000], reported=text[1000:])
    return path


@pytest.mark.slow
def test_a_run_repeats_from_its_seed_and_another_seed_is_another_run(data):
    numbers = dict(METHODS["tandem n/4 int8"].start)
    runs = [task.run("tandem n/4 int8", TINY, numbers, seed, data) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    assert all(math.isfinite(loss) for loss in (runs[0]["tuning"], runs[0]["reported"]))


@pytest.mark.product(every=99)
@pytest.mark.parametrize(
    ("name", "size"), [("adamw", 8), ("adam8bit", 2.1), ("muon", 4), ("muon int8", 1.1)]
)
def test_bytes_are_those_of_the_matrices_state(name, size):
    steps = task.compiled(name, TINY)
    numbers = dict(METHODS[name].start)
    params = jax.eval_shape(steps.parameters, 0)
    assert task.bytes_per_entry(steps.optimizer(numbers, 0), params) == pytest.approx(size, rel=0.1)


def shapes_of_a_step(name, setting):
    """Of the parameters before and after, from a trace with the numbers as arguments."""
    steps = task.compiled.__wrapped__(name, setting)
    params = jax.eval_shape(steps.parameters, 0)
    numbers = {key: jnp.float32(value) for key, value in METHODS[name].start.items()}
    state = jax.eval_shape(steps.init, params, numbers)
    batch = jax.ShapeDtypeStruct((setting.batch_size, setting.seq_len + 1), jnp.int32)
    after, new_state, _ = jax.eval_shape(steps.train, params, state, batch, numbers, 0)
    assert new_state == state
    return params, after


def test_every_method_of_every_stage_is_known_and_starts_on_the_grids():
    for scale in stages.SCALES.values():
        for name in {name for stage in scale.values() for name in stage.methods}:
            for number, start in METHODS[name].start.items():
                assert any(value == pytest.approx(start) for value in GRIDS[number])


@pytest.mark.product(every=99)
@pytest.mark.parametrize("name", sorted({*COMPETITORS, *stages.MAIN}))
def test_every_competitor_takes_its_tuned_numbers_as_arguments_of_its_step(name):
    before, after = shapes_of_a_step(name, TINY)
    assert after == before


@pytest.mark.product(every=9)
@pytest.mark.parametrize("name", stages.ON_AN_ACCELERATOR)
def test_at_the_accelerators_scale_a_step_is_of_130m_parameters_in_bfloat16(name):
    before, after = shapes_of_a_step(name, stages.LARGE)
    assert after == before
    leaves = jax.tree.leaves(before["layers"])
    assert sum(leaf.size for leaf in leaves) == pytest.approx(85e6, rel=0.01)
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.bfloat16)}


def test_runs_recorded_before_a_setting_had_a_field_are_not_made_again(tmp_path):
    runs = Runs(stages.FOLDER / "runs.jsonl", tmp_path / "no tokens", 1, pinned=False)
    found = tune(runs, "adamw", stages.STAGES["main"].setting, None, None)
    path = stages.FOLDER / "tuned.jsonl"
    assert found == command.best_of(path, ["main"], "adamw")
    assert Setting().key.keys() == {"width", "steps", "batch_size", "seq_len"}
    assert Setting(base_steps=9).key["base_steps"] == 9


def test_a_stage_starts_from_the_first_that_has_the_method(tmp_path):
    path = tmp_path / "tuned.jsonl"
    lines = [
        {"stage": "long", "method": "muon", "numbers": {"learning_rate": 0.01}},
        {"stage": "main", "method": "muon", "numbers": {"learning_rate": 0.02}},
        {"stage": "long", "method": "adamw", "numbers": {"learning_rate": 0.005}},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert command.best_of(path, ["main", "long"], "muon") == {"learning_rate": 0.02}
    assert command.best_of(path, ["main", "long"], "adamw") == {"learning_rate": 0.005}
    with pytest.raises(SystemExit, match="from what main found for 'lion': run main first"):
        command.best_of(path, ["main", "long"], "lion")


@pytest.mark.slow
def test_fine_tuning_goes_on_from_one_model_that_is_trained_once(data, monkeypatch):
    setting = dataclasses.replace(TINY, base_steps=2)
    task.prepare(setting, data)
    monkeypatch.setattr(task, "_trained", None)
    task.prepare(setting, data)
    monkeypatch.undo()
    rates = lambda rate: {"learning_rate": rate, "b2": 0.95}
    loss = lambda rate, seed: task.run("adamw", setting, rates(rate), seed, data)["reported"]
    assert loss(0.0, 1) == loss(0.0, 2) != loss(0.01, 1)


def test_word_problems_are_held_out_whole(tmp_path):
    texts.write_problems(tmp_path / "problems.npz")
    parts = texts.tokens(tmp_path / "problems.npz")
    problems = lambda name: "".join(map(chr, parts[name])).split(chr(256))
    assert len(problems("training")) == texts.PROBLEMS
    assert not set(problems("training")) & {*problems("tuning")[:-1], *problems("reported")[1:]}
    assert all("#### " in problem for problem in problems("training")[:9])


def test_own_tokens_are_split_and_say_how_many_ids_there_are(tmp_path):
    np.save(tmp_path / "own.npy", np.arange(200, dtype=np.uint16))
    parts = texts.tokens(tmp_path / "own.npy")
    np.testing.assert_array_equal(np.concatenate(list(parts.values())), np.arange(200))
    assert [len(part) for part in parts.values()] == [190, 5, 5]
    assert texts.vocabulary_size(tmp_path / "own.npy") == 200
    np.save(tmp_path / "wrong.npy", np.ones((2, 3)))
    with pytest.raises(SystemExit, match=r"wrong.npy holds float64\(2, 3\): give one axis of int"):
        texts.tokens(tmp_path / "wrong.npy")


def test_the_help_names_the_stages_and_an_unknown_method_the_methods(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")  # words with a hyphen are not broken
    told = command.command_line().format_help()
    assert "; ".join(stages.STAGES) in told
    assert "alice0" not in told
    with pytest.raises(SystemExit):
        command.command_line().parse_args(["main", "--methods", "alice"])
    assert "invalid choice: 'alice' (choose from" in capsys.readouterr().err


def test_results_of_another_scale_or_text_are_apart(tmp_path):
    own = tmp_path / "own.npy"
    folders = {
        stages.results_folder(*each) for each in (("cpu", None), ("gpu", None), ("gpu", own))
    }
    assert folders == {stages.FOLDER, stages.FOLDER / "gpu", stages.FOLDER / "gpu" / "own"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["ablations", "--scale", "gpu"],
            "--scale gpu has no stage 'ablations': main, long, large",
        ),
        (
            ["main", "--tokens", "absent.npy"],
            "--tokens absent.npy: no such file; numpy.save writes",
        ),
        (
            ["fine-tuning", "--tokens", __file__],
            "'fine-tuning' goes on from bytes of text to others",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused_with_the_reason(options, message, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["recipes", *options])
    with pytest.raises(SystemExit):
        command.main()
    assert message in capsys.readouterr().err


def test_a_misspelt_method_is_answered_with_the_names(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["recipes", "main", "--methods", "mion"])
    with pytest.raises(SystemExit):
        command.main()
    assert "invalid choice: 'mion' (choose from" in capsys.readouterr().err


def test_differences_are_those_of_equal_seeds():
    line = lambda method, *losses: {
        "stage": "main",
        "method": method,
        "numbers": {"learning_rate": 0.1},
        "reported": losses,
    }
    rows = report.rows_of(
        "main", [line("muon", 1.0, 2.0, 3.0), line("x", 1.5, 2.5, 3.5)], {"muon": 4.0, "x": 1.0}, {}
    )
    assert [row["method"] for row in rows] == ["muon", "x"]
    assert "+0.500 ± 0.000" in report.table(rows, "muon")
    assert "3.000" not in report.table(rows[:1], "muon")


def test_a_mark_is_judged_by_differences_of_equal_seeds_and_says_where_it_is_not_settled():
    main = {
        "muon": [1.0, 2.0, 3.0],
        "normuon int8": [0.9, 1.9, 2.9],
        "tandem n/4": [1.2, 1.8, 3.3],
        "adamw": [2.0, 3.0, 4.0],
        "tandem n/4 int8": [1.0, 2.0, 3.0],
    }
    rows = [{"method": name, "losses": losses} for name, losses in main.items()]
    cells = {}
    for line in marks.table({"main": rows}, report.interval).splitlines()[2:]:
        mark, where, method, _, *found = (cell.strip() for cell in line[1:-1].split("|"))
        if where == "width 128, 300 steps":
            cells[mark.partition(":")[0], method] = found
    assert cells["1 byte", "normuon int8"] == ["-0.100 ± 0.000", "+0.010", "met"]
    assert cells["1 byte", "tandem n/4"] == ["+0.100 ± 0.657", "+0.010", "not met, not settled"]
    assert cells["1/16 byte", "tandem n/16 int8"] == ["not run", "", ""]
    # Both deviations are 1, that of the difference √2.
    assert cells["1/4 byte", "tandem n/4 int8"] == ["-1.000 ± 0.000", "-4.243", "not met"]


def test_a_report_of_a_scale_that_nobody_ran_says_how_to(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "results_folder", lambda *arguments: tmp_path)
    monkeypatch.setattr("sys.argv", ["report", "--scale", "gpu"])
    with pytest.raises(SystemExit, match=r"no stage has run into .*recipes main --scale gpu"):
        report.main()

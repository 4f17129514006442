"""Trained claims: compared seed by seed, within a budget, and never trained twice."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks.papers import __main__ as command
from benchmarks.papers import report, training
from benchmarks.papers.claims import FAILS, HOLDS, NOT_RUN, UNDECIDED, Comparison, Figures, Losses
from benchmarks.recipes.methods import METHODS
from benchmarks.recipes.search import SEEDS, Runs
from benchmarks.recipes.task import Setting


def tuned(**losses):
    return {
        ("toy", name): {"method": name, "numbers": {"learning_rate": 0.02}, "reported": reported}
        for name, reported in losses.items()
    }


@pytest.mark.parametrize(
    ("losses", "margin", "verdict", "here"),
    [
        ((1.0, 1.1, 1.2), 0.0, HOLDS, "-0.500 ± 0.000"),
        ((2.0, 2.1, 2.2), 0.0, FAILS, "+0.500 ± 0.000"),
        ((1.5, 1.6, 1.7), 0.0, UNDECIDED, "+0.000 ± 0.000"),
        ((1.51, 1.61, 1.71), 0.02, HOLDS, "+0.010 ± 0.000"),
        # Apart by seeds, though ahead on average.
        ((1.0, 1.6, 1.7), 0.0, UNDECIDED, "-0.167 ± 0.717"),
    ],
)
def test_losses_are_compared_seed_by_seed(losses, margin, verdict, here):
    evidence = Losses((Comparison("muon", "adamw", margin),))
    (outcome,) = training.outcomes(evidence, "toy", tuned(muon=losses, adamw=(1.5, 1.6, 1.7)))
    assert (outcome.verdict, outcome.here) == (verdict, here)


def test_a_comparison_without_one_of_its_methods_is_not_run():
    evidence = Losses((Comparison("muon", "adamw"),))
    (outcome,) = training.outcomes(evidence, "toy", tuned(muon=(1.0, 1.0, 1.0)))
    assert outcome.verdict == NOT_RUN


def record(method, seconds=None, **setting):
    setting = dataclasses.replace(training.SCALES["toy"], **setting).key
    timed = {} if seconds is None else {"seconds": seconds}
    return {"method": method, "setting": setting, "numbers": {}, "seed": 0} | timed


def test_runs_are_estimated_by_what_is_tuned_and_what_is_there():
    assert training.expected_runs([], "toy", "adamw") == 4 + len(SEEDS)
    assert training.expected_runs([], "toy", "trion 1/8") == 7 + len(SEEDS)
    done = [record("trion 1/8")] * 6 + [record("adamw")] * 6 + [record("trion 1/8", width=128)]
    assert training.expected_runs(done, "toy", "trion 1/8") == 1 + len(SEEDS)
    assert training.expected_runs(done * 3, "toy", "trion 1/8") == len(SEEDS)


def test_seconds_are_those_of_timed_runs_of_the_same_setting():
    assert training.seconds_per_run([], "toy") == training.FIRST_GUESS["toy"]
    timed = [record("adamw", seconds) for seconds in (1.0, 2.0, 9.0)]
    assert training.seconds_per_run([*timed, record("adamw")], "toy") == 2.0
    assert training.seconds_per_run(timed, "small") == training.FIRST_GUESS["small"]


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """No results, and a run that takes no time."""
    monkeypatch.setattr(training, "RUNS", tmp_path / "runs.jsonl")
    monkeypatch.setattr(training, "FOUND", tmp_path / "tuned.jsonl")
    monkeypatch.setattr(training, "OTHERS", ())
    return tmp_path


def test_the_largest_scale_that_fits_the_budget_is_taken(empty):
    evidence = Losses((Comparison("adamw", "ldadamw"),))
    minutes = {scale: command.minutes_of(evidence, scale, 2) for scale in training.SCALES}
    assert command.largest(evidence, minutes["small"], 2) == "small"
    assert command.largest(evidence, minutes["toy"], 2) == "toy"
    assert command.largest(evidence, 0.1, 2) == "toy"
    assert command.largest(evidence, float("inf"), 2) == "toy"


def test_a_claim_with_a_setting_of_its_own_has_it_at_the_scale_of_its_name(empty, capsys):
    claim = command.CLAIMS["fine_tuning_loss"]
    assert claim.evidence.at("toy") == claim.evidence.at(None) == training.FINE_TUNING
    assert training.SETTINGS[training.FINE_TUNING].base_steps
    command.Session("small", None, empty / "tokens.npz", 1).make(claim)
    assert capsys.readouterr().out == "fine_tuning_loss: not trained at this scale\n"
    assert command.overview([claim], "small", 1) == "fine_tuning_loss: not trained at this scale"
    assert "runs at toy fine-tuning scale" in command.overview([claim], None, 1)


def test_what_does_not_fit_the_budget_is_not_begun(empty, capsys):
    session = command.Session("toy", 1.0, empty / "tokens.npz", 1)
    (empty / "tokens.npz").touch()
    session.make(command.CLAIMS["descent_penalty"])
    assert "osd, penalty needs about 7 minutes: not begun" in capsys.readouterr().out
    assert not training.RUNS.exists()
    measure = lambda data: pytest.fail("it does not fit")
    figures = Figures("papers/none", lambda results: [], measure, minutes=2)
    session.make(dataclasses.replace(command.CLAIMS["memory"], evidence=figures))
    assert "-- memory may take 2 minutes: not begun" in capsys.readouterr().out


def test_a_method_is_tuned_run_with_other_seeds_and_not_again(empty, monkeypatch):
    made = []

    def losses(self, method, setting, points, seeds, part):
        made.extend((method, seed) for _ in points for seed in seeds)
        return [abs(np.log(point["learning_rate"] / 0.01)) for point in points for _ in seeds]

    monkeypatch.setattr(Runs, "losses", losses)
    trainings = training.Trainings(empty / "tokens.npz", 1, None)
    trainings.make(["osd 1/8"], "toy")
    (line,) = training.read_tuned().values()
    assert line["numbers"] == {"learning_rate": 0.01, "b2": 0.95}
    assert len(line["reported"]) == len(SEEDS)
    assert set(made) == {("osd 1/8", seed) for seed in (0, *SEEDS)}
    evidence = Losses((Comparison("osd 1/8", "adamw"),))
    assert training.missing_methods(evidence, "toy", training.read_tuned()) == ["adamw"]


def test_runs_of_other_files_are_not_made_again(tmp_path):
    setting = Setting(width=64, steps=2)
    known = {
        "method": "adamw",
        "setting": setting.key,
        "numbers": {"learning_rate": 0.02},
        "seed": 1,
    }
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(known | {"reported": 1.25}) + "\n")
    runs = Runs(tmp_path / "own.jsonl", tmp_path / "tokens.npz", 1, True, others=(other,))
    assert runs.losses("adamw", setting, [{"learning_rate": 0.02}], [1], "reported") == [1.25]
    assert not (tmp_path / "own.jsonl").exists()


def test_a_claims_line_says_what_was_found():
    claim = command.CLAIMS["dct_adamw_against_ldadamw"]
    assert report.row(claim, {})[2:] == ("–", claim.published, f"**{NOT_RUN}**")
    found = tuned(dct_adamw=(1.0, 1.1, 1.2), ldadamw=(1.5, 1.6, 1.7))
    assert report.row(claim, found)[1:] == (
        "`python -m benchmarks.papers dct_adamw_against_ldadamw`",
        "toy: one, below",
        claim.published,
        f"**{HOLDS}**",
    )


def test_the_largest_scale_that_is_finished_is_shown():
    claim = command.CLAIMS["dct_in_frugal_and_fira"]
    names = claim.evidence.methods[:4]
    toy = tuned(**dict.fromkeys(names, (1.0, 1.1, 1.2)))
    small = {("small", name): line for (_, name), line in toy.items()}
    assert report.row(claim, toy | small)[2] == "small: 2 × holds"
    del small["small", names[0]]
    assert report.row(claim, toy | small)[2] == "toy: 2 × holds"
    assert report.row(claim, small)[2] == "small: 1 × not run, 1 × holds"


@pytest.mark.slow
def test_a_run_in_a_process_of_its_own_knows_the_papers_methods(tmp_path):
    text = np.random.default_rng(0).integers(0, 256, 3000)
    np.savez(tmp_path / "tokens.npz", training=text, tuning=text[:1000], reported=text[1000:])
    runs = Runs(tmp_path / "runs.jsonl", tmp_path / "tokens.npz", 1, True, training.run)
    setting = Setting(width=64, steps=2, batch_size=2, seq_len=16)
    numbers = dict(METHODS["osd 1/8"].start)
    (loss,) = runs.losses("osd 1/8", setting, [numbers], [1], "reported")
    (line,) = map(json.loads, (tmp_path / "runs.jsonl").read_text().splitlines())
    assert line["reported"] == loss
    assert line["seconds"] > 0

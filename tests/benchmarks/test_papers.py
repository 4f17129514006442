"""The papers' claims: all are there, made-up results decide them, and the page is the results'."""

import dataclasses
import json
import shlex

import jax.numpy as jnp
import numpy as np
import pytest

import train
from benchmarks.papers import __main__ as command
from benchmarks.papers import (
    columns,
    memory,
    online_subspace_descent,
    parts,
    report,
    reviewers,
    training,
    trajectories,
    trion,
)
from benchmarks.papers.at_scale import PREPARE, memory_table
from benchmarks.papers.claims import (
    FAILS,
    HOLDS,
    NOT_RUN,
    UNDECIDED,
    AtScale,
    Comparison,
    Figures,
    Losses,
    above,
    below,
    together,
)
from benchmarks.papers.methods import FREQUENT, PAPERS
from benchmarks.recipes.methods import GRIDS, METHODS
from benchmarks.recipes.search import SEEDS, Runs
from benchmarks.recipes.task import Setting
from training.steps.optimizers import check_options

ASKED_FOR = {
    "trion": (
        *("Table 1", "Table 2", "Tables 4 and 5", "Table 6", "Tables 7 and 8", "Figure 1"),
        "abstract",
    ),
    "online_subspace_descent": (
        *("by rank", "weights' optimizer", "projection's optimizer", "auxiliary loss"),
        "overhead",
    ),
    "i3s": ("Table 1", "Figure 2", "Figure 4"),
    "reviewers": (
        *("time by part", "Hadamard and random sketches", "APOLLO and I3S", "principal angles"),
        *("Newton–Schulz", "ZeRO", "8 and 4 bits"),
    ),
}


def test_every_table_and_question_has_an_entry():
    assert [paper.name for paper in command.PAPERS] == list(ASKED_FOR)
    for paper in command.PAPERS:
        for part in ASKED_FOR[paper.name]:
            assert any(part in claim.where for claim in paper.claims), part


def test_no_two_claims_share_a_name():
    assert len(command.CLAIMS) == sum(len(paper.claims) for paper in command.PAPERS)


def test_every_method_is_in_a_claim_and_starts_on_the_grids():
    compared = {
        name
        for claim in command.CLAIMS.values()
        if isinstance(claim.evidence, Losses)
        for name in claim.evidence.methods
    }
    assert compared <= METHODS.keys()
    assert PAPERS.keys() <= compared | set(FREQUENT)
    for name in compared:
        for number, value in METHODS[name].start.items():
            assert np.isclose(GRIDS[number], value).any(), (name, number)


@pytest.mark.parametrize("name", PAPERS)
def test_every_method_builds(name):
    numbers = {k: v for k, v in METHODS[name].start.items() if k != "learning_rate"}
    METHODS[name].build(0.1, 1.0, dimension_numbers=None, **numbers)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((0.1, 0.4), HOLDS), ((0.4, 0.6), UNDECIDED), ((0.6, 0.7), FAILS), ((np.nan,) * 2, UNDECIDED)],
)
def test_an_interval_decides_by_the_side_of_the_limit_that_it_is_on(interval, verdict):
    assert below(*interval, 0.5) == verdict
    opposite = {HOLDS: FAILS, FAILS: HOLDS, UNDECIDED: UNDECIDED}
    assert above(*interval, 0.5) == opposite[verdict]


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        ([], NOT_RUN),
        ([NOT_RUN, NOT_RUN], NOT_RUN),
        ([HOLDS, HOLDS], HOLDS),
        ([HOLDS, NOT_RUN], UNDECIDED),
        ([HOLDS, UNDECIDED], UNDECIDED),
        ([HOLDS, UNDECIDED, NOT_RUN, FAILS], FAILS),
    ],
)
def test_a_claim_holds_if_all_does_and_fails_with_anything(verdicts, verdict):
    assert together(verdicts) == verdict


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


SECONDS = {
    "trion": [2.0] * 7,
    "dion": [8.0] * 7,
    "ldadamw": [9.0] * 7,
    "dct_adamw (int8)": [3.0] * 7,
    "online_subspace_descent": [1.0] * 7,
    "optax.contrib.galore, every step": [30.0] * 7,
    "galore (gram), every step": [1.5] * 7,
    "optax.adamw": [1.0] * 7,
}


def updates(**of_small_rank):
    """What `benchmarks.optimizers` writes, with other times at the small rank."""
    small = SECONDS | {name: [value] * 7 for name, value in of_small_rank.items()}
    ranks = [(128, SECONDS), (32, small)]
    as_rows = lambda seconds: {name: {"seconds": values} for name, values in seconds.items()}
    return {"ranks": [{"rank": rank, "methods": as_rows(seconds)} for rank, seconds in ranks]}


def verdicts(outcomes):
    return [outcome.verdict for outcome in outcomes]


def test_times_decide_what_is_said_of_them():
    assert verdicts(trion.faster(updates())) == [HOLDS] * 4
    assert verdicts(trion.faster(updates(dion=1.0))) == [HOLDS, HOLDS, FAILS, HOLDS]
    assert verdicts(online_subspace_descent.cost(updates())) == [HOLDS, FAILS] * 2


def test_the_fft_is_compared_with_the_product_at_large_sizes_only():
    seconds = {
        "dct matmul float32": [2.0] * 7,
        "dct fft float32": [1.0] * 7,
        "idct matmul float32": [1.0] * 7,
        "idct fft float32": [2.0] * 7,
    }
    rows = [{"n": n, "seconds": seconds} for n in (512, 4096)]
    assert verdicts(trion.fft_against_matmul({"results": rows})) == [HOLDS, FAILS]


def test_energies_come_from_errors():
    fractions = [1 / 16, 1 / 8, 1 / 4, 1 / 2]
    every = lambda error: {matrix: [[error] * 4] for matrix in "abc"}
    errors = {name: every(0.8) for name in reviewers.SKETCHES} | {"dct": every(0.6)}
    results = {"fractions": fractions, "errors": {"gradient": errors | {"svd": every(0.0)}}}
    assert {outcome.here for outcome in trion.errors(results)} == {"0.64 (0.64–0.64)"}
    assert set(verdicts(trion.errors(results))) == {FAILS}
    assert set(verdicts(reviewers.sketches(results))) == {HOLDS}


def test_one_seed_of_fine_tuning_decides_nothing():
    run = lambda method, rank, accuracy: {
        "method": method,
        "rank": rank,
        "accuracy": accuracy,
        "chosen": True,
    }
    runs = [run("AdamW", None, 0.9), run("Trion", 16, 1.0)]
    (outcome,) = trion.fine_tuning({"runs": runs})
    assert (outcome.here, outcome.verdict) == ("100.0% against 90.0%, one seed", UNDECIDED)


def test_overlaps_and_ranks_are_compared_seed_by_seed():
    dominant, sampled = FREQUENT
    run = lambda early, late, rank: {"overlaps": [early] * 3 + [late] * 3, "rank": rank}
    runs = {
        dominant: [run(0.4, 0.8, 0.2), run(0.5, 0.9, 0.2), run(0.4, 0.8, 0.2)],
        sampled: [run(0.3, 0.3, 0.6)] * 3,
    }
    assert verdicts(trajectories.overlaps({"runs": runs})) == [HOLDS, HOLDS]
    assert verdicts(trajectories.spectra({"runs": runs})) == [HOLDS]
    still = runs | {dominant: [run(0.8, 0.8, 0.7)] * 3}
    assert verdicts(trajectories.overlaps({"runs": still})) == [UNDECIDED, HOLDS]
    assert verdicts(trajectories.spectra({"runs": still})) == [FAILS]


def test_the_effective_share_counts_what_is_alike():
    assert trajectories.effective_rank(np.array([1.0, 1.0, 0.0, 0.0])) == pytest.approx(1 / 2)
    one_column = jnp.ones((8, 3))  # constant columns: the first DCT column holds all
    assert columns.effective_share(one_column, "dct") == pytest.approx(1 / 8)
    assert columns.effective_share(one_column, "identity") == pytest.approx(1)


def test_principal_angles_of_a_matrix_whose_best_subspace_the_dct_has():
    angles = columns.principal_angles(jnp.ones((4, 3)), jnp.ones((4, 3)))
    assert angles["largest"] == pytest.approx(0, abs=0.1)
    assert angles["overlap"] == pytest.approx(1)


def test_shares_of_newton_schulz_and_of_parts_are_of_equal_rounds():
    seconds = {
        "trion whole": [4.0] * 7,
        "trion newton_schulz": [1.0] * 7,
        "muon whole": [10.0] * 7,
        "muon newton_schulz": [9.0] * 7,
    }
    (outcome,) = parts.share({"seconds": seconds})
    assert outcome.verdict == HOLDS
    assert outcome.here.startswith("25% (25%–25%) of Trion's update, 90%")
    five = dict(zip("abcde", ([1.0] * 7, [1.0] * 7, [1.0] * 7, [2.0] * 7, [2.0] * 7), strict=True))
    (outcome,) = parts.large({"seconds": {"8192": five}})
    assert (outcome.verdict, outcome.here[:4]) == (HOLDS, "0.75")


def test_growth_with_the_rank_is_said_of_some_and_denied_of_others():
    names = (*parts.INDEPENDENT, *parts.DEPENDENT)
    times = {"1/8": 1.0, "1/4": 9.0, "1/2": 1.2}
    seconds = {f"{name} {rank}": [time] * 7 for name in names for rank, time in times.items()}
    assert verdicts(parts.growth({"seconds": seconds})) == [HOLDS, HOLDS, FAILS, FAILS]


@pytest.mark.slow
def test_parts_and_ranks_are_timed_in_equal_rounds(monkeypatch):
    monkeypatch.setattr(parts, "SIZES", (64,))
    monkeypatch.setattr(parts, "COLUMNS", 16)
    monkeypatch.setattr(parts, "RANK", 4)
    monkeypatch.setattr(parts, "HIDDEN", 32)
    monkeypatch.setattr(parts, "INTERMEDIATE", 48)
    monkeypatch.setattr(parts, "SHARE_RANK", 8)
    small = {"layer0/q": jnp.ones((32, 48)), "layer1/q": jnp.ones((32, 48))}
    monkeypatch.setattr(parts, "parameters", lambda: small)
    for measure, read in (
        (parts.measure, parts.large),
        (parts.measure_share, parts.share),
        (parts.measure_ranks, parts.growth),
    ):
        results = json.loads(json.dumps(measure()))
        assert set(verdicts(read(results))) <= {HOLDS, FAILS, UNDECIDED}


def test_bytes_decide_exactly():
    methods = {name: {"bytes": size} for name, size in {"a": 10, "b": 20}.items()}
    results = {"presets": {"x": {"parameters": 10, "methods": methods}}}
    (outcome,) = memory.smaller(results, {"a": "b"})
    assert outcome.here == "50% less state, 25% less with weights and gradients"
    assert outcome.verdict == HOLDS
    assert verdicts(memory.smaller(results, {"b": "a"})) == [FAILS]


def test_state_and_sent_bytes_of_a_model_are_those_of_its_matrices():
    params = memory.parameters("small")
    adamw = memory.state(memory.BUILDS["adamw"](), params)
    assert adamw["bytes_per_entry"] == 8
    assert adamw["bytes"] == 2 * memory.size(params) + 4  # and the count
    matrices = sum(leaf.size for leaf in _kernels(params["layers"]))
    assert memory.sent("adamw", params) == 4 * matrices
    assert memory.sent("ldadamw", params) == matrices


def test_a_matrix_that_the_devices_do_not_divide_sends_nothing_at_low_rank():
    stack = lambda m: {"layers": {"mlp": {"up_proj": {"kernel": jnp.ones((2, 8, m))}}}}
    assert memory.sent("adamw", stack(12)) == 2 * 4 * 8 * 12
    assert memory.sent("trion", stack(12)) == 0 < memory.sent("trion", stack(16))


def _kernels(tree):
    if not isinstance(tree, dict):
        return []
    own = [tree["kernel"]] if "kernel" in tree else []
    return own + [leaf for child in tree.values() for leaf in _kernels(child)]


LINES = [
    line for claim in command.CLAIMS.values() if claim.at_scale for line in claim.at_scale.commands
]


@pytest.mark.product(every=8)
@pytest.mark.parametrize("line", [PREPARE, *LINES])
def test_commands_for_the_papers_sizes_are_commands_of_train(line):
    config = train.parse(shlex.split(line.format(preset="60m"))[2:])
    if line != PREPARE:
        assert config.preset == "60m"
        names = config.optimizers.split(",")
        check_options(config, names)


def test_memory_at_scale_is_told_of_every_method():
    table = memory_table("small", AtScale(("small",), (), ("adamw", "trion 1/8")))
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == ["adamw", "trion 1/8"]


def record(method, seconds=None, **setting):
    setting = dataclasses.asdict(dataclasses.replace(training.SCALES["toy"], **setting))
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
        "setting": dataclasses.asdict(setting),
        "numbers": {"learning_rate": 0.02},
        "seed": 1,
    }
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(known | {"reported": 1.25}) + "\n")
    runs = Runs(tmp_path / "own.jsonl", tmp_path / "tokens.npz", 1, others=(other,))
    assert runs.losses("adamw", setting, [{"learning_rate": 0.02}], [1], "reported") == [1.25]
    assert not (tmp_path / "own.jsonl").exists()


def test_a_misspelt_claim_is_answered_with_the_names(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["papers", "trion_against_dino"])
    with pytest.raises(SystemExit):
        command.main()
    assert "no claim 'trion_against_dino': choose from trion_against_dion," in (
        capsys.readouterr().err
    )


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
    runs = Runs(tmp_path / "runs.jsonl", tmp_path / "tokens.npz", 1, training.run)
    setting = Setting(width=64, steps=2, batch_size=2, seq_len=16)
    numbers = dict(METHODS["osd 1/8"].start)
    (loss,) = runs.losses("osd 1/8", setting, [numbers], [1], "reported")
    (line,) = map(json.loads, (tmp_path / "runs.jsonl").read_text().splitlines())
    assert line["reported"] == loss
    assert line["seconds"] > 0


def test_the_tables_of_the_page_are_those_of_the_results():
    page = report.PAGE.read_text(encoding="utf-8")
    assert report.render(page) == page

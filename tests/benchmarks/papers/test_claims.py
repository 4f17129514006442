"""The claims: all are there, verdicts follow from intervals, and the page is the results'."""

import dataclasses
import importlib
import shlex

import numpy as np
import pytest

import train
from benchmarks.papers import __main__ as command
from benchmarks.papers import report
from benchmarks.papers.at_scale import PREPARE, UPDATES, describe, memory_table, methods_of
from benchmarks.papers.claims import (
    FAILS,
    HOLDS,
    NOT_RUN,
    UNDECIDED,
    Losses,
    above,
    below,
    together,
)
from benchmarks.papers.methods import FREQUENT, PAPERS
from benchmarks.recipes.builders import GRIDS
from benchmarks.recipes.methods import METHODS
from training.config.options import flat
from training.steps.optimizers import check_accepted

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


LINES = {
    line for claim in command.CLAIMS.values() if claim.at_scale for line in claim.at_scale.commands
}
OF_TRAIN = sorted(line for line in LINES if line.startswith("python train.py"))


@pytest.mark.product(every=8)
@pytest.mark.parametrize("line", [PREPARE, *OF_TRAIN])
def test_commands_for_the_papers_sizes_are_commands_of_train(line):
    config = train.parse(shlex.split(line.format(preset="60m"))[2:])
    if line.startswith("python train.py compare"):
        assert config.model.preset == "60m"
        check_accepted(flat(config), config.optimizers.split(","))
    elif line.startswith("python train.py finetune"):
        check_accepted(flat(config), [config.run.optimizer])


@pytest.mark.parametrize("line", sorted(LINES.difference(OF_TRAIN)))
def test_other_commands_for_the_papers_sizes_measure_a_part_on_an_accelerator(line):
    accelerator = importlib.import_module("benchmarks.accelerator.__main__")
    for preset in UPDATES.presets:
        *start, option, part = shlex.split(line.format(preset=preset))
        assert start == ["python", "-m", "benchmarks.accelerator"]
        assert accelerator.parse([option, part]).part == [part]


MEASURED = {"fft_against_matmul", "rank_independence", "faster_updates", "memory"}


def test_what_is_trained_has_commands_for_the_papers_sizes():
    trained = {
        claim.name
        for claim in command.CLAIMS.values()
        if isinstance(claim.evidence, Losses) or claim.evidence.file == "papers/trajectories"
    }
    assert trained | MEASURED == {c.name for c in command.CLAIMS.values() if c.at_scale}


def test_memory_at_scale_is_told_of_every_method():
    names = ("adamw", "trion 1/8")
    table = memory_table("small", names)
    assert tuple(line.split("|")[1].strip() for line in table.splitlines()[2:]) == names
    assert "frugal random" in methods_of(command.CLAIMS["dct_in_frugal_and_fira"])


def test_a_description_has_the_commands_the_memory_and_how_they_decide():
    claim = command.CLAIMS["subspace_overlap"]
    small = dataclasses.replace(
        claim, at_scale=dataclasses.replace(claim.at_scale, presets=("small",))
    )
    text = describe(small)
    for part in (
        PREPARE,
        "--preset small --optimizers galore",
        "galore 1/4",
        "subspace_overlap in",
    ):
        assert part in text
    assert "no command" in describe(command.CLAIMS["column_norms"])


def test_what_is_measured_has_the_accelerators_command_and_the_memory():
    transforms = describe(command.CLAIMS["fft_against_matmul"])
    assert transforms.startswith("python -m benchmarks.accelerator --part transforms\n")
    small = dataclasses.replace(UPDATES, presets=("small",))
    text = describe(dataclasses.replace(command.CLAIMS["memory"], at_scale=small))
    assert text.startswith("python -m benchmarks.accelerator --part updates-small\n")
    assert all(f" {name} |" in text for name in UPDATES.methods)


def test_a_misspelt_claim_is_answered_with_the_names(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["papers", "trion_against_dino"])
    with pytest.raises(SystemExit):
        command.main()
    assert "no claim 'trion_against_dino': choose from trion_against_dion," in (
        capsys.readouterr().err
    )


def test_the_tables_of_the_page_are_those_of_the_results():
    page = report.PAGE.read_text(encoding="utf-8")
    assert report.render(page) == page


def test_the_page_names_the_grid_of_momenta():
    page = " ".join(report.PAGE.read_text(encoding="utf-8").split())
    assert ", ".join(f"{value:g}" for value in GRIDS["momentum"]) in page

"""What the search's updates cost is measured once a program, and stands beside their losses."""

import json

import pytest

from benchmarks.formulas import Split, dct_adamw
from benchmarks.measure import optimizers
from benchmarks.measure.communication_tables import total
from benchmarks.recipes import costs, report
from benchmarks.recipes.methods import METHODS
from benchmarks.timing import ROUNDS

FEWER = ", 3 iterations"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(optimizers, "HIDDEN", 32)
    monkeypatch.setattr(optimizers, "INTERMEDIATE", 48)
    monkeypatch.setattr(costs, "LAYERS", 1)


def test_names_whose_updates_differ_in_constants_alone_are_one_program():
    assert costs.programs(["lion", "adamw", "adamw, two rates"]) == {
        "lion": "lion",
        "adamw": "adamw",
        "adamw, two rates": "adamw",
    }


@pytest.mark.slow
def test_fewer_iterations_are_another_program():
    names = ["normuon int2", *(f"normuon int2 at one rate{change}" for change in ("", FEWER))]
    assert list(costs.programs(names).values()) == ["normuon int2", "normuon int2", names[-1]]


def test_what_a_file_holds_is_not_measured_again_and_one_program_has_one_cost(tmp_path):
    path = tmp_path / "costs.json"
    assert costs.read(path) == {}
    for part in costs.PARTS:
        costs.measure(path, part, ["adamw"], ROUNDS, "abc")
        costs.measure(path, part, ["adamw", "adamw, two rates"], ROUNDS, "abc")
    found = costs.read(path)
    assert found["adamw, two rates"] == found["adamw"]
    time, sent = found["adamw"]
    assert 0 < time.low <= time.median <= time.high
    assert sent == (0, 0)
    costs.measure(path, "sent", ["lion", "adamw"], ROUNDS, "def")
    measured = json.loads(path.read_text())["measurements"]
    assert [list(each.get("sent", ())) for each in measured] == [[], ["adamw"], ["lion"]]
    assert [each["environment"]["git_commit"] for each in measured] == ["abc", "abc", "def"]
    assert costs.read(path)["lion"].time is None


@pytest.mark.slow
def test_with_rows_split_every_matrix_sends_what_its_formula_says():
    measured = costs.sent(["dct_adamw"], ROUNDS)
    assert measured["entries"] == 4 * 32 * 32 + 3 * 32 * 48
    expected = 4 * dct_adamw(Split(32, 32, 8, rows=8)) + 3 * dct_adamw(Split(48, 32, 8, rows=8))
    assert total(measured["sent"]["dct_adamw"]) == expected


def test_the_methods_with_a_loss_are_measured():
    names = costs.reported()
    assert {"adamw", "muon", "tandem at one rate"} <= {*names} <= METHODS.keys()


def test_a_stages_table_has_the_costs_and_a_dash_where_there_are_none():
    lines = [
        {"stage": "main", "method": name, "numbers": {"learning_rate": 0.1}, "reported": losses}
        for name, losses in (("muon", [1.0, 2.0, 3.0]), ("x", [2.0, 3.0, 4.0]))
    ]
    known = {"muon": costs.Cost(costs.Spread(29.0, 28.0, 30.0), (1.5, 0.25))}
    rows = report.rows_of("main", lines, {"muon": 4.0, "x": 1.0}, known)
    _, _, muon, other = report.table(rows, "muon").splitlines()
    assert "| 29.0 (28.0–30.0) |    1.50 + 0.25 |" in muon
    assert muon.count("|") == other.count("|")
    assert [cell.strip() for cell in other.split("|")][3:5] == ["–", "–"]
    assert "1.50" not in report.table(rows, "muon", [report.SENT])

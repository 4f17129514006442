"""The formulas of what one update sends are those of the compiled program."""

import pytest

from benchmarks.measure import communication, communication_tables
from benchmarks.measure.communication import FOREIGN, LAYOUTS, METHODS, SYNCHRONISED, TOLD
from benchmarks.pages import read_results, sharding

# Other proportions than the benchmark's, so that no two terms are equal by chance.
SIZES = {"m": 320, "n": 160, "r": 24}
# What only the compiler knows to be split, it gathers as it likes.
UNPREDICTABLE = {("muon", "Auto"), ("normuon", "Auto")}
QUICK = [
    ("trion", "rows", "Explicit"),
    ("trion", "columns", "Auto"),
    ("dct_adamw", "columns", "Explicit"),
    ("dion (cholesky_qr)", "zero", "Explicit"),
]
# Where columns are split, the program does not know it under Auto axes and sends something else.
CASES = [(method, layout, "Explicit") for method in METHODS for layout in LAYOUTS] + [
    (method, layout, "Auto") for method in METHODS for layout in communication.COLUMN_LAYOUTS
]


@pytest.mark.parametrize(
    ("method", "layout", "axes"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES],
)
def test_an_update_sends_what_its_formula_says(method, layout, axes):
    row = communication.measure(method, METHODS[method], layout, axes, SIZES)
    if row["formula"] is None:
        assert (method, axes) in UNPREDICTABLE
    else:
        assert communication_tables.total(row) == row["formula"]
    assert row["in_loops"] == 0


@pytest.mark.parametrize("method", TOLD)
def test_told_where_the_parameters_are_trion_sends_the_same_under_auto_axes(method):
    row = communication.measure(method, TOLD[method], "columns", "Auto", SIZES)
    assert communication_tables.total(row) == row["formula"]


def test_optax_muon_is_recorded_as_an_error_under_explicit_axes():
    muon = FOREIGN["optax.contrib.muon"]
    row = communication.measure("optax.contrib.muon", muon, "rows", "Explicit", SIZES)
    assert row["error"] == "ShardingTypeError"


def test_an_error_of_our_own_is_not_recorded_but_raised():
    def broken(*_):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        communication.measure("trion", broken, "rows", "Auto", SIZES)


def test_low_rank_synchronisation_sends_scores_and_coordinates():
    trion = communication.summary(communication.synchronised_update(SYNCHRONISED["trion"], SIZES))
    assert communication_tables.total(trion) == 4 * (SIZES["n"] + SIZES["m"] * SIZES["r"])


def test_the_page_on_sharding_is_that_of_the_results():
    page = sharding.PAGE.read_text(encoding="utf-8")
    assert sharding.render(page) == page


def test_the_results_hold_every_method_in_every_layout_and_agree_with_the_formulas():
    results = read_results("communication")
    updates = results["updates"]
    assert {row["method"] for row in updates} == {*METHODS, *FOREIGN, *TOLD}
    ours = [row for row in updates if row["method"] in METHODS]
    assert len(ours) == len(METHODS) * len(LAYOUTS) * 2
    sizes = {name: results["sizes"][name] for name in "mnr"}
    for row in ours:
        layout = LAYOUTS[row["layout"]]
        expected = communication.expected_bytes(row["method"], layout, row["axes"], sizes)
        if expected is None:
            assert (row["method"], row["axes"]) in UNPREDICTABLE
        else:
            assert communication_tables.total(row) == expected, row


def test_llamas_matrices_are_split_as_the_trainer_splits_them():
    splits = sharding.splits({"fsdp": 64}, 256, zero=False)
    assert sum(layers for layers, _ in splits) == 7 * 32
    assert {split.rows for _, split in splits} == {64}
    # 11008 rows do not divide by 512.
    splits = sharding.splits({"fsdp": 512}, 256, zero=False)
    assert {(s.m, s.rows, s.columns) for _, s in splits} == {(4096, 512, 1), (11008, 1, 512)}

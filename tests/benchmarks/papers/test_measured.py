"""Measured claims: what made-up results decide, and what the measurements are of."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.papers import (
    columns,
    memory,
    online_subspace_descent,
    parts,
    reviewers,
    training,
    trajectories,
    trion,
)
from benchmarks.papers.claims import FAILS, HOLDS, UNDECIDED
from benchmarks.papers.methods import FREQUENT
from benchmarks.recipes.task import Setting

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
    """What `benchmarks.measure.optimizers` writes, with other times at the small rank."""
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


def test_overlaps_and_ranks_are_compared_seed_by_seed():
    dominant, sampled = FREQUENT
    run = lambda early, late, rank: {
        "numbers": {"learning_rate": rank / 10},
        "overlaps": [early] * 3 + [late] * 3,
        "rank": rank,
        "singular_values": dict.fromkeys(trajectories.POSITIONS, rank / 2),
    }
    runs = {
        dominant: [run(0.4, 0.8, 0.2), run(0.5, 0.9, 0.2), run(0.4, 0.8, 0.2)],
        sampled: [run(0.3, 0.3, 0.6)] * 3,
    }
    assert verdicts(trajectories.overlaps({"runs": runs})) == [HOLDS, HOLDS]
    (outcome,) = trajectories.spectra({"runs": runs})
    assert outcome.verdict == HOLDS
    assert outcome.what.endswith(f"{sampled}, at 0.06 > {dominant}, at 0.02")
    assert outcome.here.endswith(
        "at 1/8, 1/4, 1/2, 3/4: 0.300, 0.300, 0.300, 0.300 against 0.100, 0.100, 0.100, 0.100"
    )
    still = runs | {dominant: [run(0.8, 0.8, 0.7)] * 3}
    assert verdicts(trajectories.overlaps({"runs": still})) == [UNDECIDED, HOLDS]
    assert verdicts(trajectories.spectra({"runs": still})) == [FAILS]


@pytest.mark.slow
def test_a_training_is_followed_from_its_first_subspace_to_its_last(tmp_path, monkeypatch):
    text = np.random.default_rng(0).integers(0, 256, 3000)
    np.savez(tmp_path / "tokens.npz", training=text, tuning=text[:1000], reported=text[1000:])
    setting = Setting(width=64, steps=21, batch_size=2, seq_len=16)
    monkeypatch.setattr(trajectories, "SETTING", setting)
    run = trajectories.follow(FREQUENT[0], 1, tmp_path / "tokens.npz")
    assert len(run["overlaps"]) == 2  # of the subspaces of steps 1, 11 and 21
    assert all(0 < each <= 1 for each in run["overlaps"])
    assert 0 < run["rank"] < 1
    assert run["numbers"] == training.read_tuned()["toy", "galore 1/4"]["numbers"]
    values = list(run["singular_values"].values())
    assert 1 > values[0] > values[1] > values[2] > values[3] > 0


def test_the_effective_share_counts_what_is_alike():
    assert columns.effective_share([1.0, 1.0, 0.0, 0.0]) == pytest.approx(1 / 2)
    one_column = jnp.ones((8, 3))  # constant columns: the first DCT column holds all
    assert columns.share_of_columns(one_column, "dct") == pytest.approx(1 / 8)
    assert columns.share_of_columns(one_column, "identity") == pytest.approx(1)


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
    monkeypatch.setattr(parts, "parameters", lambda layers: small)
    for measure, read in (
        (parts.measure, parts.large),
        (parts.measure_share, parts.share),
        (parts.measure_ranks, parts.growth),
    ):
        results = json.loads(json.dumps(measure()))
        samples = jax.tree.leaves(results["seconds"], is_leaf=lambda node: isinstance(node, list))
        assert len(samples) > 1
        assert {len(each) for each in samples} == {parts.ROUNDS}
        assert all(second > 0 for each in samples for second in each)
        found = verdicts(read(results))
        assert found
        assert set(found) <= {HOLDS, FAILS, UNDECIDED}


def test_bytes_decide_exactly():
    results = {"presets": {"x": {"parameters": 10, "methods": {"a": 10, "b": 20}}}}
    (outcome,) = memory.smaller(results, {"a": "b"})
    assert outcome.here == "50% less state, 25% less with weights and gradients"
    assert outcome.verdict == HOLDS
    assert verdicts(memory.smaller(results, {"b": "a"})) == [FAILS]


@pytest.mark.slow
def test_state_and_sent_bytes_of_a_model_are_those_of_its_matrices(monkeypatch):
    params = memory.parameters("small")
    monkeypatch.setattr(memory, "PRESETS", ("small",))
    measured = memory.measure()["presets"]["small"]
    assert measured["parameters"] == memory.size(params)
    assert measured["methods"]["adamw"] == 2 * memory.size(params) + 4  # and the count
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

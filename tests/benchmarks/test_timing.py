"""Ratios come with their rounds."""

import doctest
import json

import pytest

from benchmarks import timing
from benchmarks.timing import Spread, interleaved_seconds, ratio


def test_the_examples_run():
    assert doctest.testmod(timing).failed == 0


def test_a_ratio_is_of_the_rounds_and_not_of_the_medians():
    """A round in which everything was slow has the same ratio as a quiet one."""
    samples = {"a": [2.0, 20.0, 2.0, 4.0], "b": [1.0, 10.0, 1.0, 1.0]}
    assert ratio(samples, "a", "b") == Spread(2.0, 2.0, 2.5)


def test_every_round_is_kept_and_few_are_refused():
    samples = interleaved_seconds({"nothing": lambda: None, "too": lambda: None}, rounds=7)
    assert [len(seconds) for seconds in samples.values()] == [7, 7]
    with pytest.raises(ValueError, match="7 or more"):
        interleaved_seconds({"nothing": lambda: None}, rounds=6)


def test_a_spread_survives_its_json():
    spread = Spread(2.0, 1.5, 2.5)
    assert Spread(*json.loads(json.dumps(spread))) == spread

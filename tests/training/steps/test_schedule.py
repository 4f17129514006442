"""Learning rates over a run."""

import numpy as np
import pytest

from training.config.resolved import Schedule
from training.steps.schedule import learning_rate_schedule


def rates(steps, schedule="wsd", **changes):
    options = {"warmup_steps": 4, "final_learning_rate_ratio": 0.1, "decay_fraction": 0.25}
    rate = learning_rate_schedule(Schedule(steps=steps, schedule=schedule, **(options | changes)))
    return np.array([float(rate(step)) for step in range(steps + 1)])


@pytest.mark.parametrize(
    ("schedule", "last"), [("cosine", 0.1), ("linear", 0.1), ("constant", 1.0)]
)
def test_a_rate_warms_up_to_the_peak_and_ends_at_its_ratio(schedule, last):
    found = rates(20, schedule)
    np.testing.assert_allclose(found[:5], [0.25, 0.5, 0.75, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(found[-1], last, rtol=1e-6)


def test_wsd_rises_stays_and_falls_linearly_in_the_last_part():
    expected = [0.25, 0.5, 0.75, 1] + 11 * [1] + [1, 0.82, 0.64, 0.46, 0.28, 0.1]
    np.testing.assert_allclose(rates(20), expected, rtol=1e-6)


def test_wsd_of_more_steps_is_the_same_until_the_shorter_one_decays():
    np.testing.assert_array_equal(rates(20)[:16], rates(60)[:16])


def test_wsd_may_decay_from_the_warm_up_on():
    np.testing.assert_allclose(rates(8, decay_fraction=1.0)[4:], [1, 0.775, 0.55, 0.325, 0.1])

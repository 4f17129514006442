"""What several processes agree on after a step: a signal, or an error that one of them keeps."""

import jax
import pytest

from training import distributed
from training.errors import TrainingFailedError, UserError
from training.runs.interruption import AgreedStop, StopRequest
from training.steps.mesh import make_mesh


@pytest.fixture
def stop():
    return AgreedStop(StopRequest(), make_mesh({"data": 8}))


@pytest.fixture
def one_of_two(monkeypatch):
    """What this process would do if there were another one."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed, "processes_where", lambda condition: [0] * condition)


def fail(stop, error):
    with stop.noting_errors():
        raise error


def test_a_single_process_raises_at_once(stop):
    with pytest.raises(OSError, match="full"):
        fail(stop, OSError("full"))


@pytest.mark.usefixtures("one_of_two")
def test_one_of_several_keeps_an_error_until_all_leave_a_step_later(stop):
    fail(stop, OSError("full"))
    assert stop.signal_number() is None
    with pytest.raises(OSError, match="full"):
        stop.signal_number()


@pytest.mark.usefixtures("one_of_two")
def test_or_until_they_meet_anyway(stop):
    stop.leave_if_noted()
    fail(stop, OSError("full"))
    with pytest.raises(OSError, match="full"):
        stop.leave_if_noted()


@pytest.mark.usefixtures("one_of_two")
def test_numbers_that_all_have_end_each_at_once(stop):
    with pytest.raises(TrainingFailedError, match="not finite"):
        fail(stop, TrainingFailedError("not finite"))


def test_another_process_s_error_is_named(stop, monkeypatch):
    monkeypatch.setattr(distributed, "processes_where", lambda condition: [1])
    with pytest.raises(UserError, match="because process 1 failed"):
        stop.leave_if_noted()

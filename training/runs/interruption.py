"""Ctrl-C and SIGTERM: finish the step, save, leave; a second Ctrl-C leaves at once.

Of several processes any one may get the signal, or fail to write; all leave after the same step.
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from training.distributed import all_or_none
from training.errors import TrainingFailedError

_FAILED = 255  # above all signals' numbers


class InterruptedRunError(Exception):
    """A run was stopped by a signal, after its state was saved; exit status 128 + its number."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.signal_number = signal_number


class StopRequest:
    """While entered, SIGINT and SIGTERM are noted in `signal_number` and not acted on.

    After the first SIGINT the usual handler is back, so that the next one raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.signal_number = number
        signal.signal(signal.SIGINT, signal.default_int_handler)


class AgreedStop:
    """What to do about a stop request or an error of this process after a step: the same in all
    processes.

    A single process looks at its own. Several exchange theirs on the devices of the step's mesh, in
    a computation of one integer a step that runs beside the training step; the answer is read a
    step later, when it is there already, so that nobody waits.
    """

    def __init__(self, request: StopRequest, mesh: jax.sharding.Mesh):
        self._request = request
        self._error: Exception | None = None
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        replicated = NamedSharding(mesh, PartitionSpec())
        self._largest = jax.jit(jnp.max, out_shardings=replicated)
        self._answer: jax.Array | None = None

    @contextlib.contextmanager
    def noting_errors(self) -> Iterator[None]:
        """Of several processes each keeps an error of this block until all leave for it.

        Numbers that are not finite are so in all of them: `TrainingFailedError` is raised at once.
        """
        try:
            yield
        except TrainingFailedError:
            raise
        except Exception as error:
            if jax.process_count() == 1:
                raise
            self._error = self._error or error

    def leave_if_noted(self) -> None:
        """Ends all processes if one has kept an error, by that or a `UserError`; all must call
        this."""
        with all_or_none():
            if self._error is not None:
                raise self._error

    def signal_number(self) -> int | None:
        """The signal to leave for after this step, or None; to be asked once after every step.

        Raises as `leave_if_noted`.
        """
        if jax.process_count() == 1:
            return self._request.signal_number
        answer = self._answer
        own = _FAILED if self._error is not None else self._request.signal_number or 0
        everyone = jax.make_array_from_callback(
            (self._sharding.num_devices,), self._sharding, lambda _: np.array([own], np.int32)
        )
        self._answer = self._largest(everyone)
        found = 0 if answer is None else int(answer)
        if found == _FAILED:
            self.leave_if_noted()
        return found or None

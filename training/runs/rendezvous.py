"""Every process says hello to the coordinator before JAX connects, which ends the whole process
(SIGABRT, a stack trace) when a peer does not come in time.

A worker sends one line, `lowrank_optax PROCESS_ID NUM_PROCESSES`, and waits. Process 0 answers
`go` once all are there, or `error: ...` to all, closes the port, and leaves it to JAX.
"""

import contextlib
import errno
import socket
import time

from training.errors import UserError

_GREETING = "lowrank_optax"
_RETRY_SECONDS = 0.1
_LONGEST_LINE = 1000


def meet(host: str, port: int, process_id: int, num_processes: int, seconds: float) -> None:
    """Returns in all processes once all have called it.

    Args:
        host: of process 0, as the others reach it.
        port: of process 0, free until then.
        process_id: of this process, from 0.
        num_processes: how many there are.
        seconds: longest wait.

    Raises:
        UserError: in process 0 if the port is taken or processes are missing; in the others if the
            coordinator cannot be reached; in all if their numbers do not fit each other.
    """
    deadline = time.monotonic() + seconds
    if process_id:
        _call(host, port, process_id, num_processes, seconds, deadline)
    else:
        _gather(host, port, num_processes, seconds, deadline)


def _gather(host: str, port: int, num_processes: int, seconds: float, deadline: float) -> None:
    address = f"{host}:{port}"
    callers: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(address, port))
        _check_own_address(server, host, port, seconds)
        problem = ""
        while not problem and len(callers) < num_processes - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                caller = stack.enter_context(server.accept()[0])
            except TimeoutError:
                missing = [str(i) for i in range(1, num_processes) if i not in callers]
                problem = (
                    f"{len(callers) + 1} of {num_processes} processes reached the coordinator "
                    f"{address} within {seconds:g} s, not process {', '.join(missing)}: start "
                    f"every --process-id from 0 to {num_processes - 1} with the same --coordinator "
                    "and --num-processes, or wait longer with --coordinator-timeout"
                )
            else:
                problem = _admit(caller, callers, num_processes)
        for caller in callers.values():
            _answer(caller, f"error: {problem}" if problem else "go")
    if problem:
        raise UserError(problem)


def _admit(caller: socket.socket, callers: dict[int, socket.socket], num_processes: int) -> str:
    """Adds a caller; strangers are ignored. Returns what is wrong with its numbers, if anything."""
    caller.settimeout(5.0)
    words = _read_line(caller).split()
    if words[:1] != [_GREETING] or len(words) != 3 or not "".join(words[1:]).isdecimal():
        return ""
    process_id, count = int(words[1]), int(words[2])
    if count != num_processes:
        problem = (
            f"process {process_id} was started with --num-processes {count}, process 0 with "
            f"{num_processes}: use the same number for all"
        )
    elif process_id in callers and _is_open(callers[process_id]):
        problem = f"two processes were started with --process-id {process_id}: give each its own"
    else:
        callers[process_id] = caller
        return ""
    _answer(caller, f"error: {problem}")
    return problem


def _call(
    host: str, port: int, process_id: int, num_processes: int, seconds: float, deadline: float
) -> None:
    reason = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=left) as connection:
                connection.sendall(f"{_GREETING} {process_id} {num_processes}\n".encode())
                connection.settimeout(max(deadline - time.monotonic(), 0.01))
                answer = _read_line(connection)
        except OSError as error:
            reason = error.strerror or "no answer"
        else:
            if answer == "go":
                return
            if answer.startswith("error: "):
                raise UserError(answer.removeprefix("error: "))
            reason = "it does not answer"
        time.sleep(_RETRY_SECONDS)
    raise UserError(
        f"process {process_id} got no go-ahead from the coordinator {host}:{port} within "
        f"{seconds:g} s ({reason}): start process 0 on that machine and all others with the same "
        "--coordinator, see that no firewall closes the port, or wait longer with "
        "--coordinator-timeout"
    )


def _listen(address: str, port: int) -> socket.socket:
    dual = socket.has_dualstack_ipv6()
    try:
        if dual:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "another program uses that port" if taken else error.strerror
        raise UserError(
            f"process 0 cannot listen at --coordinator {address} ({reason}): choose a free port"
        ) from error


def _check_own_address(server: socket.socket, host: str, port: int, seconds: float) -> None:
    """Process 0 must find itself at the coordinator's address: JAX connects to it as well."""
    server.settimeout(1.0)
    try:
        with socket.create_connection((host, port), timeout=seconds) as connection:
            own_port = connection.getsockname()[1]
            arrived_port = None
            while arrived_port != own_port:  # a worker that came first is cut off, and calls again
                arrived, sender = server.accept()
                arrived.close()
                arrived_port = sender[1]
    except OSError as error:
        reason = error.strerror or "no connection arrives"
        raise UserError(
            f"process 0 does not reach itself at --coordinator {host}:{port} ({reason}): give an "
            "address of the machine that process 0 runs on"
        ) from error


def _read_line(connection: socket.socket) -> str:
    """One line without its end; what came of it, if the other side closes or stays silent."""
    received = b""
    with contextlib.suppress(TimeoutError, ConnectionResetError):
        while not received.endswith(b"\n") and len(received) < _LONGEST_LINE:
            piece = connection.recv(_LONGEST_LINE)
            if not piece:
                break
            received += piece
    return received.decode(errors="replace").strip()


def _answer(caller: socket.socket, line: str) -> None:
    """Sends a line; a caller that has left misses it, and says so itself."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        caller.sendall(f"{line}\n".encode())


def _is_open(connection: socket.socket) -> bool:
    """Whether the other side has not closed the connection."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False
    finally:
        connection.settimeout(5.0)

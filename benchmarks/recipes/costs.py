"""What does an update cost, by every method whose loss the search reports: time, and bytes sent?

Run from the repository's root: ``python -m benchmarks.recipes.costs time``, on a quiet machine, and
``python -m benchmarks.recipes.costs sent``. Both are of the matrices of a Llama's layers (hidden
512). Times are interleaved with optax.adamw's, and between two changes of a subspace that is held
for a while; bytes are of the collectives that are compiled with the matrices' rows split over 8
forced host devices, where nothing is run. Names whose programs differ in constants alone are
measured once. Writes benchmarks/results/recipes/costs.json; what that holds is not measured again.
"""

import hashlib
import json
import math
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import lowrank_optax as lro
from benchmarks.measure import communication, optimizers
from benchmarks.measure.communication_tables import total
from benchmarks.recipes.methods import METHODS
from benchmarks.recipes.search import read_lines
from benchmarks.record import RESULTS, begin, command_line, environment
from benchmarks.timing import Spread, interleaved_seconds, ratio

LAYERS = 2
"""That are timed: what a step of AdamW goes through is then several times a cache."""
TOGETHER = 9
"""Methods that are timed in one run, in the order of `METHODS`, where relatives are neighbours."""
ADAMW = "optax.adamw"
_FLOATS = re.compile(r"dense<[^>]*>( : tensor<[\dx]*f32>)")


class Cost(NamedTuple):
    """Of one update.

    Attributes:
        time: over optax.adamw's; None if it was not measured.
        sent: bytes by entry of a matrix, at every step and what a change of subspace adds; or None.
    """

    time: Spread | None
    sent: tuple[float, float] | None


def reported() -> list[str]:
    """The methods that have a loss, of the recipes and of the papers' claims."""
    files = [RESULTS / folder / "tuned.jsonl" for folder in ("recipes", "papers")]
    found = {line["method"] for file in files for line in read_lines(file)}
    return [name for name in METHODS if name in found]


def build(name: str) -> optax.GradientTransformation:
    """A method at the numbers that its search starts from."""
    numbers = dict(METHODS[name].start)
    rate = numbers.pop("learning_rate")
    return METHODS[name].build(rate, 1.0, lro.matrix_dimension_numbers, **numbers)


def programs(names: Iterable[str]) -> dict[str, str]:
    """Name to the first name whose update is the same program, but for its constants."""
    params = jax.eval_shape(lambda: optimizers.parameters(1))
    first: dict[str, str] = {}
    same = {}
    for name in names:
        tx = build(name)
        text = jax.jit(tx.update).lower(params, jax.eval_shape(tx.init, params), params).as_text()
        digest = hashlib.sha256(_FLOATS.sub(r"\1", text).encode()).hexdigest()
        same[name] = first.setdefault(digest, name)
    return same


def time(names: Sequence[str], rounds: int) -> dict[str, Any]:
    """Seconds of the methods' and AdamW's updates, one a round."""
    params = optimizers.parameters(LAYERS)
    builds = {ADAMW: optax.adamw(1e-3)} | {name: build(name) for name in names}
    updaters = {name: optimizers.Updater(tx, params) for name, tx in builds.items()}
    return {"layers": LAYERS, "time": interleaved_seconds(updaters, rounds)}


def sent(names: Sequence[str], rounds: int) -> dict[str, Any]:
    """What the updates send with the matrices' longer sides split, or a square one's outputs."""
    del rounds
    mesh = jax.make_mesh((communication.DEVICES,), ("rows",), axis_types=(AxisType.Auto,))

    def split(leaf: Any) -> jax.ShapeDtypeStruct:
        rows = ("rows", None) if leaf.shape[0] > leaf.shape[1] else (None, "rows")
        where = NamedSharding(mesh, PartitionSpec(*rows))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    params = jax.tree.map(split, jax.eval_shape(lambda: optimizers.parameters(1)))
    return {
        "entries": sum(math.prod(leaf.shape) for leaf in params.values()),
        "sent": {
            name: communication.summary(communication.update_collectives(build(name), params))
            for name in names
        },
    }


PARTS = {"time": time, "sent": sent}


def measure(
    path: pathlib.Path, part: str, names: Iterable[str], rounds: int, commit: str | None
) -> None:
    """Adds what a file of costs lacks.

    Args:
        path: of the JSON.
        part: a key of `PARTS`.
        names: of methods.
        rounds: of times.
        commit: that is measured.
    """
    known = _read(path)
    known["same"] |= programs(names)
    done = {name for each in known["measurements"] for name in each.get(part, ())}
    missing = [name for name in dict.fromkeys(known["same"].values()) if name not in done]
    # A name that is a measured program has its cost though nothing is missing.
    _write(path, known)
    for start in range(0, len(missing), TOGETHER):
        group = missing[start : start + TOGETHER]
        results = {"environment": environment(commit)} | PARTS[part](group, rounds)
        known["measurements"].append(results)
        _write(path, known)
        print(f"{part}: {', '.join(group)}", flush=True)


def read(path: pathlib.Path) -> dict[str, Cost]:
    """The costs by the names of methods, as far as they were measured; the last measurement counts.

    Args:
        path: of the JSON, which need not be there.
    """
    known = _read(path)
    times, bytes_sent = {}, {}
    for each in known["measurements"]:
        for name in each.get("time", ()):
            times[name] = ratio(each["time"], name, ADAMW)
        for name, row in each.get("sent", {}).items():
            everywhen = [total(row, when) / each["entries"] for when in ("every_step", "refresh")]
            bytes_sent[name] = (everywhen[0], everywhen[1])
    return {
        name: Cost(times.get(first), bytes_sent.get(first)) for name, first in known["same"].items()
    }


def _read(path: pathlib.Path) -> dict[str, Any]:
    empty = {"same": {}, "measurements": []}
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else empty


def _write(path: pathlib.Path, known: dict[str, Any]) -> None:
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measures and writes."""
    parser = command_line(__doc__, "recipes/costs")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        metavar="METHOD",
        help="by default those reported; an unknown name lists them all",
    )
    arguments = begin(parser)
    jax.config.update("jax_platforms", "cpu")
    if arguments.part == "sent":
        jax.config.update("jax_num_cpu_devices", communication.DEVICES)
    names = arguments.methods or reported()
    measure(arguments.out, arguments.part, names, arguments.rounds, arguments.commit)


if __name__ == "__main__":
    main()

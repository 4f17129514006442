"""How often does one update move a matrix through memory, and what does it hold and compile?

Run from the repository's root: ``python -m benchmarks.measure.passes``. Prints a table and writes
benchmarks/results/passes.json. A pass is m·n entries that are read or written; temporaries are
counted in matrices. Both are XLA's own counts of one compiled update (weight decay and
`optax.apply_updates` included), so they need no quiet machine; they are a CPU's.

The yardstick, after which the marks are named, donates state and parameters and returns the
parameters first. JAX hands donated buffers to results of the same shape in their order, so there
W's result takes the first moment's buffer, and XLA copies what it would overwrite too early: AdamW
counts 18 passes and holds 2 matrices a leaf. Where nothing is donated, or the results come in the
arguments' order and each takes its own buffer ("in place"), it counts 10 and holds none. All three
settings are in the results.

What XLA counts once, although it may run more often or not at all: the body of a loop (loops over
whole matrices are counted in the results), the more costly branch of a condition (a refresh), and a
custom call's operands and results (QR, SVD), not what it does inside.
"""

import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.methods import METHODS, Build
from benchmarks.record import begin, command_line, write_json
from benchmarks.tables import markdown_table

RANK, WEIGHT_DECAY = 64, 0.1
SHAPES = ((512, 1024), (1024, 512), (1024, 1024))
"""Of leaves (in, out): in < out, in > out, square. The first is the yardstick's."""

YARDSTICK = "parameters first"
SETTINGS = {YARDSTICK: (True, False), "in place": (True, True), "nothing donated": (False, True)}
"""Name -> whether state and parameters are donated, and whether results are in their order."""

LEAVES = (1, 4, 16)
UNSCANNED = 48
COMPILATIONS = 3

Shape = tuple[int, int]


def lowered(build: Build, shape: Shape, leaves: int, setting: str) -> jax.stages.Lowered:
    """One update of equal float32 leaves, traced in a function of its own."""
    tx = build(RANK, WEIGHT_DECAY)
    donated, in_order = SETTINGS[setting]
    matrix = jax.ShapeDtypeStruct(shape, jnp.float32)
    params = {f"leaf{i:02d}": matrix for i in range(leaves)}

    def update(state, params, gradients):
        updates, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        return (state, params) if in_order else (params, state)

    # keep_unused: the arguments are the same whatever a method happens to read.
    jitted = jax.jit(update, donate_argnums=(0, 1) if donated else (), keep_unused=True)
    return jitted.lower(jax.eval_shape(tx.init, params), params, params)


def measure(
    build: Build, shape: Shape, leaves: int = 1, setting: str = YARDSTICK
) -> dict[str, Any]:
    """What XLA counts in one update.

    Args:
        build: the optimizer, from its rank.
        shape: of every leaf, (in, out).
        leaves: how many.
        setting: a key of `SETTINGS`.

    Returns:
        "passes" and "temporaries" in matrices of all leaves together, "temporary_bytes", and
        "loops" over whole matrices, whose bodies are counted once.
    """
    compiled = lowered(build, shape, leaves, setting).compile()
    matrices = 4 * shape[0] * shape[1] * leaves
    temporary_bytes = compiled.memory_analysis().temp_size_in_bytes
    return {
        "passes": compiled.cost_analysis()["bytes accessed"] / matrices,
        "temporaries": temporary_bytes / matrices,
        "temporary_bytes": temporary_bytes,
        "loops": loops_over_matrices(compiled.as_text(), shape[0] * shape[1]),
    }


def loops_over_matrices(text: str, entries: int) -> int:
    """How many loops of an HLO module carry an array of at least so many entries."""
    carried = re.findall(r"= (\(.*?\)|\S+) while\(", text)
    return sum(any(size >= entries for size in _sizes(kind)) for kind in carried)


def _sizes(kind: str) -> Iterator[int]:
    for dimensions in re.findall(r"\w+\[([\d,]*)\]", kind):
        size = 1
        for dimension in dimensions.split(","):
            size *= int(dimension or 1)
        yield size


@contextmanager
def no_compilation_cache() -> Iterator[None]:
    """Every compilation is one, whatever the environment caches."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def compile_seconds(
    build: Build, shape: Shape, repeats: int, many: int = UNSCANNED
) -> dict[str, list[float]]:
    """Seconds to trace and compile the update of one leaf and of many equal ones, in turn."""
    samples: dict[str, list[float]] = {"1": [], str(many): []}
    with no_compilation_cache():
        for _ in range(repeats):
            for leaves, seconds in samples.items():
                # Not what JAX remembers of the last trace: a new training run has none.
                jax.clear_caches()
                start = time.perf_counter()
                lowered(build, shape, int(leaves), YARDSTICK).compile()
                seconds.append(time.perf_counter() - start)
    return samples


def measure_all(name: str, repeats: int) -> dict[str, Any]:
    """Everything about one method."""
    build = METHODS[name]
    label: Callable[[Shape], str] = lambda shape: f"{shape[0]}x{shape[1]}"
    return {
        "counts": {
            label(shape): {s: measure(build, shape, setting=s) for s in SETTINGS}
            for shape in SHAPES
        },
        "temporary_bytes_by_leaves": {
            setting: {
                str(leaves): measure(build, SHAPES[0], leaves, setting)["temporary_bytes"]
                for leaves in LEAVES
            }
            for setting in SETTINGS
        },
        "compile_seconds": compile_seconds(build, SHAPES[0], repeats),
    }


def table(results: dict[str, Any]) -> str:
    """The counts as Markdown, a row per method; one leaf of the first shape where none is named."""
    first, *others = next(iter(results["methods"].values()))["counts"]
    header = (
        *("method", f"passes, {first}", *others, "in place", "nothing donated"),
        *("temporaries", *(f"{n} in place" for n in LEAVES)),
        *("s to compile", f"{UNSCANNED} leaves / 1"),
    )
    return markdown_table(header, [_row(*method) for method in results["methods"].items()])


def _row(name: str, method: dict[str, Any]) -> tuple[str, ...]:
    counts = list(method["counts"].values())
    matrix = 4 * SHAPES[0][0] * SHAPES[0][1]
    by_leaves = method["temporary_bytes_by_leaves"]["in place"].values()
    one, many = (statistics.median(seconds) for seconds in method["compile_seconds"].values())
    return (
        name,
        *(f"{each[YARDSTICK]['passes']:.1f}" for each in counts),
        *(f"{counts[0][setting]['passes']:.1f}" for setting in ("in place", "nothing donated")),
        f"{counts[0][YARDSTICK]['temporaries']:.2f}",
        *(f"{temporary_bytes / matrix:.2f}" for temporary_bytes in by_leaves),
        f"{one:.1f}",
        f"{many / one:.1f}",
    )


def main() -> None:
    """Measures, prints and writes."""
    parser = command_line(__doc__, "passes")
    parser.set_defaults(rounds=COMPILATIONS)
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=list(METHODS),
        metavar="METHOD",
        help="by default all; an unknown name lists them",
    )
    arguments = begin(parser)
    results: dict[str, Any] = {
        "rank": RANK,
        "dtype": "float32",
        "weight_decay": WEIGHT_DECAY,
        "yardstick": {"shape": SHAPES[0], "setting": YARDSTICK},
        "methods": {},
    }
    for name in arguments.methods:
        results["methods"][name] = measure_all(name, arguments.rounds)
        print(table({**results, "methods": {name: results["methods"][name]}}), flush=True)
    write_json(arguments.out, results, arguments.commit)
    print(f"\n{table(results)}\n\nwritten to {arguments.out}")


if __name__ == "__main__":
    main()

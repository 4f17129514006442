"""What does one update cost: time, compile time, temporary bytes and state bytes, side by side?

Run from the repository's root: ``python -m benchmarks.measure.optimizers``. Updates the matrices of
a Llama (hidden 512, 4 layers) with every method at two ranks, interleaved in one run beside
optax.adamw, optax.contrib.muon and optax.contrib.galore. A method that changes its subspace every
200 steps is timed between two changes, unless its name says "every step". Prints a table and writes
benchmarks/results/optimizers.json.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import optax

import lowrank_optax as lro
from benchmarks.methods import EVERY_STEP, METHODS
from benchmarks.record import begin, command_line, write_json
from benchmarks.tables import markdown_table
from benchmarks.timing import Spread, interleaved_seconds, median, ratio

LAYERS, HIDDEN, INTERMEDIATE = 4, 512, 1376
RANK_FRACTIONS = (1 / 4, 1 / 16)

BUILDS = METHODS | EVERY_STEP
RATIOS = {
    "over_adamw": "this / adamw",
    "muon_over_this": "muon / this",
    "galore_over_this": "contrib.galore / this",
}
"""Key of a result -> head of its column. optax.contrib.galore is that of every step."""


def parameters(layers: int) -> dict[str, jax.Array]:
    """Kernels of a Llama's first layers, as random numbers that serve as gradients too.

    Not stacked, because optax.contrib.galore takes no batches of matrices.
    """
    shapes = {
        **{f"{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"},
        "gate_proj": (HIDDEN, INTERMEDIATE),
        "up_proj": (HIDDEN, INTERMEDIATE),
        "down_proj": (INTERMEDIATE, HIDDEN),
    }
    key = jax.random.key(0)
    return {
        f"layer{layer}/{name}": jax.random.normal(jax.random.fold_in(key, 7 * layer + i), shape)
        for layer in range(layers)
        for i, (name, shape) in enumerate(shapes.items())
    }


class Updater:
    """A compiled, donated update and the state that it threads through its calls."""

    def __init__(self, tx: optax.GradientTransformation, params: dict[str, jax.Array]):
        self.state = jax.jit(tx.init)(params)
        self.params = params
        start = time.perf_counter()
        self.compiled = (
            jax.jit(tx.update, donate_argnums=1).lower(params, self.state, params).compile()
        )
        self.compile_seconds = time.perf_counter() - start
        memory = self.compiled.memory_analysis()
        self.temporary_bytes = memory.temp_size_in_bytes
        self.state_bytes = lro.memory_report(tx, params).total_bytes

    def __call__(self) -> Any:
        updates, self.state = self.compiled(self.params, self.state, self.params)
        return updates, self.state


def measure(
    fraction: float, rounds: int, methods: Collection[str] = tuple(BUILDS)
) -> dict[str, Any]:
    """The methods at one rank, with the ratios to those yardsticks that are among them."""
    params = parameters(LAYERS)
    rank = round(fraction * HIDDEN)
    updaters = {name: Updater(BUILDS[name](rank), params) for name in methods}
    samples = interleaved_seconds(updaters, rounds)
    return {
        "rank": rank,
        "methods": {
            name: {
                "median_seconds": median(samples[name]),
                **_ratios(samples, name),
                "compile_seconds": updater.compile_seconds,
                "temporary_bytes": updater.temporary_bytes,
                "state_bytes": updater.state_bytes,
                "seconds": samples[name],
            }
            for name, updater in updaters.items()
        },
    }


def _ratios(samples: Mapping[str, Sequence[float]], name: str) -> dict[str, Spread]:
    pairs = {
        "over_adamw": (name, "optax.adamw"),
        "muon_over_this": ("optax.contrib.muon", name),
        "galore_over_this": ("optax.contrib.galore, every step", name),
    }
    return {
        key: ratio(samples, *pair) for key, pair in pairs.items() if samples.keys() >= set(pair)
    }


def table(result: dict[str, Any]) -> str:
    """One rank's methods, as Markdown; ratios with their quartiles over the rounds."""
    rows = result["methods"]
    ratios = [key for key in RATIOS if all(key in row for row in rows.values())]
    header = (
        *("method", "ms", *(RATIOS[key] for key in ratios)),
        *("compile s", "temporary MB", "state MB"),
    )
    cells = [
        (
            name,
            f"{1e3 * row['median_seconds']:.0f}",
            *(f"{Spread(*row[key]):.1f}" for key in ratios),
            f"{row['compile_seconds']:.1f}",
            f"{row['temporary_bytes'] / 1e6:.0f}",
            f"{row['state_bytes'] / 1e6:.1f}",
        )
        for name, row in rows.items()
    ]
    return f"rank {result['rank']} of {HIDDEN}\n\n{markdown_table(header, cells)}"


def main() -> None:
    """Measures, prints and writes."""
    parser = command_line(__doc__, "optimizers")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=BUILDS,
        default=list(BUILDS),
        metavar="METHOD",
        help="by default all; an unknown name lists them",
    )
    arguments = begin(parser)
    results = []
    for fraction in RANK_FRACTIONS:
        results.append(measure(fraction, arguments.rounds, arguments.methods))
        print(table(results[-1]), end="\n\n", flush=True)
    shape = {"layers": LAYERS, "hidden": HIDDEN, "intermediate": INTERMEDIATE}
    write_json(arguments.out, {"shape": shape, "ranks": results}, arguments.commit)


if __name__ == "__main__":
    main()

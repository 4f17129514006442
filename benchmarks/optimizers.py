"""What does one update cost: time, compile time, temporary bytes and state bytes, side by side?

Run from the repository's root: ``python -m benchmarks.optimizers``. Updates the matrices of a Llama
(hidden 512, 4 layers) with every method at two ranks, interleaved in one run beside
optax.adamw, optax.contrib.muon and optax.contrib.galore. Prints a table and writes
benchmarks/results/optimizers.json.
"""

import argparse
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import optax

import lowrank_optax as lro
from benchmarks.timing import interleaved_seconds, markdown_table, median, ratio, write_json

LAYERS, HIDDEN, INTERMEDIATE = 4, 512, 1376
RANK_FRACTIONS = (1 / 4, 1 / 16)
LEARNING_RATE = 1e-2
NEVER = 10**6  # an interval longer than the benchmark: only the first, untimed, step refreshes

OURS: dict[str, Callable[[int], optax.GradientTransformation]] = {
    "trion": lambda rank: lro.trion(LEARNING_RATE, rank),
    "dct_adamw (8-bit feedback)": lambda rank: lro.dct_adamw(LEARNING_RATE, rank),
    "dct_adamw (no feedback)": lambda rank: lro.dct_adamw(LEARNING_RATE, rank, error_feedback=None),
    "dion": lambda rank: lro.dion(LEARNING_RATE, rank),
    "ldadamw": lambda rank: lro.ldadamw(LEARNING_RATE, rank),
    "online_subspace_descent": lambda rank: lro.online_subspace_descent(LEARNING_RATE, rank),
    "galore (every step, gram)": lambda rank: lro.galore(
        LEARNING_RATE, rank, update_interval=1, method="gram"
    ),
    "galore (between refreshes)": lambda rank: lro.galore(
        LEARNING_RATE, rank, update_interval=NEVER
    ),
    "frugal dct (every step)": lambda rank: lro.frugal(
        LEARNING_RATE, rank, projection="dct", update_interval=1
    ),
    "fira dct (every step)": lambda rank: lro.fira(
        LEARNING_RATE, rank, projection="dct", update_interval=1
    ),
}


def yardsticks(rank: int) -> dict[str, optax.GradientTransformation]:
    """What optax itself offers."""
    return {
        "optax.adamw": optax.adamw(LEARNING_RATE),
        "optax.contrib.muon": optax.contrib.muon(LEARNING_RATE),
        "optax.contrib.galore (every step)": optax.contrib.galore(
            LEARNING_RATE, rank=rank, update_proj_gap=1
        ),
    }


def parameters() -> dict[str, jax.Array]:
    """Kernels of a Llama's layers, as random numbers that serve as gradients too.

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
        for layer in range(LAYERS)
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


def measure(fraction: float, repeats: int) -> dict[str, Any]:
    """All methods at one rank."""
    params = parameters()
    rank = round(fraction * HIDDEN)
    optimizers = yardsticks(rank) | {name: make(rank) for name, make in OURS.items()}
    updaters = {name: Updater(tx, params) for name, tx in optimizers.items()}
    samples = interleaved_seconds(updaters, repeats)
    speedup = functools.partial(ratio, samples)
    return {
        "rank": rank,
        "methods": {
            name: {
                "median_seconds": median(samples[name]),
                "muon_over_this": speedup("optax.contrib.muon", name),
                "galore_over_this": speedup("optax.contrib.galore (every step)", name),
                "compile_seconds": updater.compile_seconds,
                "temporary_bytes": updater.temporary_bytes,
                "state_bytes": updater.state_bytes,
            }
            for name, updater in updaters.items()
        },
    }


def table(result: dict[str, Any]) -> str:
    """One rank's methods, as Markdown."""
    header = (
        *("method", "ms", "muon / this", "galore / this"),
        *("compile s", "temporary MB", "state MB"),
    )
    rows = [
        (
            name,
            f"{1e3 * row['median_seconds']:.0f}",
            f"{row['muon_over_this']:.1f}",
            f"{row['galore_over_this']:.1f}",
            f"{row['compile_seconds']:.1f}",
            f"{row['temporary_bytes'] / 1e6:.0f}",
            f"{row['state_bytes'] / 1e6:.1f}",
        )
        for name, row in result["methods"].items()
    ]
    return f"rank {result['rank']} of {HIDDEN}\n\n{markdown_table(header, rows)}"


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    results = [measure(fraction, arguments.repeats) for fraction in RANK_FRACTIONS]
    for result in results:
        print(table(result), end="\n\n")
    path = pathlib.Path(__file__).parent / "results" / "optimizers.json"
    shape = {"layers": LAYERS, "hidden": HIDDEN, "intermediate": INTERMEDIATE}
    write_json(path, {"shape": shape, "ranks": results})


if __name__ == "__main__":
    main()

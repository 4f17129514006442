"""The papers' sizes: commands of train.py, and the memory that they need, from shapes."""

import benchmarks.papers.methods  # noqa: F401  makes the papers' methods known
import lowrank_optax as lro
from benchmarks.papers.claims import AtScale
from benchmarks.papers.memory import RATE, parameters, size
from benchmarks.recipes.methods import METHODS
from benchmarks.tables import markdown_table
from models.llama import matrix_dimension_numbers

PREPARE = (
    "python train.py prepare --data hf:allenai/c4:en:train --tokenizer bpe:32000 --out prepared"
)
TRAINING = (
    "--data prepared --steps 10000 --warmup-steps 1000 --batch-size 512 --seq-len 256 "
    "--dtype bfloat16 --weight-decay 0 --fallback-learning-rate 0.003 --tune --seeds 4"
)
"""Steps, warm-up, batch and length are those of Online Subspace Descent's published script for 60m;
the other papers' could not be verified. Seed 0 tunes; the other three are the table."""


def compare(optimizers: str, out: str, options: str) -> str:
    """A comparison's command, in which {preset} is still to be named."""
    return (
        f"python train.py compare --preset {{preset}} --optimizers {optimizers} {options} "
        f"{TRAINING} --out runs/papers/{out}"
    )


def describe(at_scale: AtScale) -> str:
    """Commands and memory of every preset."""
    parts = [PREPARE]
    for preset in at_scale.presets:
        parts += [command.format(preset=preset) for command in at_scale.commands]
        parts.append(
            f"\n{preset}, in gigabytes, activations apart:\n{memory_table(preset, at_scale)}\n"
        )
    return "\n".join(parts)


def memory_table(preset: str, at_scale: AtScale) -> str:
    """Float32 weights, gradients and state of every method, before anything is split."""
    params = parameters(preset)
    weights = size(params)
    rows = []
    for name in at_scale.methods:
        method = METHODS[name]
        numbers = {key: value for key, value in method.start.items() if key != "learning_rate"}
        tx = method.build(RATE, 1.0, dimension_numbers=matrix_dimension_numbers, **numbers)
        state = lro.memory_report(tx, params).total_bytes
        rows.append([name, *(f"{bytes_ / 1e9:.2f}" for bytes_ in (weights, weights, state))])
        rows[-1].append(f"{(2 * weights + state) / 1e9:.2f}")
    return markdown_table(("method", "weights", "gradients", "state", "together"), rows)

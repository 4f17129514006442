"""The papers' sizes: commands of train.py, and the memory that they need, from shapes."""

from collections.abc import Iterable

import benchmarks.papers.methods  # noqa: F401  makes the papers' methods known
import lowrank_optax as lro
from benchmarks.papers.claims import AtScale, Claim, Losses
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


def finetune(optimizer: str, options: str) -> tuple[str, str]:
    """The commands that fine-tune a model and evaluate it."""
    out = f"runs/papers/finetune-{optimizer}"
    return (
        f"python train.py finetune --model Llama-2-{{preset}} --data gsm8k/train.jsonl "
        f"--optimizer {optimizer} {options}--packing --dtype bfloat16 --out {out}",
        f"python train.py evaluate --model {out} --data gsm8k/test.jsonl",
    )


def on_accelerator(part: str) -> str:
    """The command that measures a part of what an accelerator should answer."""
    return f"python -m benchmarks.accelerator --part {part}"


UPDATES = AtScale(
    ("350m", "1b"),
    (on_accelerator("updates-{preset}"),),
    ("adamw", "trion 1/4", "dion 1/4", "dct_adamw", "ldadamw"),
    then="The memory is a whole model's; the command measures times, state and temporaries of one "
    "layer's matrices, at r/n = 1/4 alone. Other ranks are timed by the claim's own command, at "
    "its own width.",
)
"""Updates of matrices of these sizes, which are timed and weighed but not trained."""


def describe(claim: Claim) -> str:
    """Commands and memory of every preset, and how they decide the claim."""
    if claim.at_scale is None:
        return "measured as it is: no command measures it at another size"
    at_scale = claim.at_scale
    parts = [PREPARE] if any(" --data prepared " in line for line in at_scale.commands) else []
    parts += [line for line in at_scale.commands if "{preset}" not in line]
    for preset in at_scale.presets:
        parts += [line.format(preset=preset) for line in at_scale.commands if "{preset}" in line]
        table = memory_table(preset, methods_of(claim))
        parts.append(f"\n{preset}, in gigabytes, activations apart:\n{table}\n")
    return "\n".join([*parts, *filter(None, [at_scale.then])])


def methods_of(claim: Claim) -> tuple[str, ...]:
    """Those whose memory is told: all that are trained."""
    compared = claim.evidence.methods if isinstance(claim.evidence, Losses) else ()
    return tuple(dict.fromkeys((*compared, *(claim.at_scale.methods if claim.at_scale else ()))))


def memory_table(preset: str, methods: Iterable[str]) -> str:
    """Float32 weights, gradients and state of every method, before anything is split."""
    params = parameters(preset)
    weights = size(params)
    rows = []
    for name in methods:
        method = METHODS[name]
        numbers = {key: value for key, value in method.start.items() if key != "learning_rate"}
        tx = method.build(RATE, 1.0, dimension_numbers=matrix_dimension_numbers, **numbers)
        state = lro.memory_report(tx, params).total_bytes
        rows.append([name, *(f"{bytes_ / 1e9:.2f}" for bytes_ in (weights, weights, state))])
        rows[-1].append(f"{(2 * weights + state) / 1e9:.2f}")
    return markdown_table(("method", "weights", "gradients", "state", "together"), rows)

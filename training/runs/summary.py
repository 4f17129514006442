"""The figures of a finished run: summary.json and the table printed at the end."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import lowrank_optax as lro
from training.config.resolved import ResolvedRun, Variant
from training.runs.metrics import RECENT, losses_of_sets, perplexity
from training.steps.compiled import CompiledSteps


def final_train_loss(records: Sequence[dict[str, Any]]) -> float:
    """Mean training loss over the last tenth of the steps, at most 100: a single batch is noisy.

    Args:
        records: the last ones, of every step or of some.
    """
    last = records[-1]["step"] if records else 0
    start = last - max(1, min(RECENT, last // 10))
    known = [record for record in records if record["loss"] is not None]
    losses = [record["loss"] for record in known if record["step"] > start]
    losses = losses or [record["loss"] for record in known[-1:]]
    return float(np.mean(losses)) if losses else math.nan


def summarize(
    variant: Variant, steps: CompiledSteps, records: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The content of summary.json.

    Args:
        variant: of the run.
        steps: of the run, for its optimizer and the shapes of its parameters.
        records: the last ones of metrics.jsonl; the very last holds a validation loss.
    """
    params = steps.abstract_state.params
    with jax.set_mesh(steps.mesh):
        memory = lro.memory_report(steps.optimizer, params)
    seconds = records[-1]["seconds"]
    train_loss = final_train_loss(records)
    return {
        "optimizer": steps.options.method.optimizer,
        "learning_rate": variant.learning_rate,
        "seed": variant.seed,
        "step": records[-1]["step"],
        "train_loss": train_loss,
        "train_perplexity": perplexity(train_loss),
        "val_loss": records[-1]["val_loss"],
        "val_perplexity": perplexity(records[-1]["val_loss"]),
        **{f"val_loss/{name}": loss for name, loss in losses_of_sets(records[-1]).items()},
        "seconds": seconds,
        "compile_seconds": round(steps.compile_seconds, 3),
        "tokens_per_second": round(
            records[-1]["step"] * steps.options.batch.num_tokens / seconds, 1
        ),
        "parameters": sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params)),
        "optimizer_state_bytes": memory.total_bytes,
        "optimizer_state_bytes_per_device": bytes_per_device(steps.abstract_state.optimizer_state),
        "adamw_state_bytes": memory.adamw_bytes,
    }


def announce(run: ResolvedRun, model: str, data: str, console: Console) -> None:
    """Says what is about to happen.

    Args:
        run: it.
        model: which one, for people.
        data: the same.
        console: to print to.
    """
    method, schedule, batch = run.steps.method, run.steps.schedule, run.steps.batch
    rank = "" if method.rank is None else f", rank {method.rank}"
    zero = ", ZeRO" if method.zero else ""
    count = jax.process_count()
    processes = f", {count} processes" if count > 1 else ""
    console.print(
        f"{model} | {method.optimizer}, learning rate {run.variant.learning_rate:g}{rank} | "
        f"{schedule.steps} steps of {batch.batch_size} x {batch.seq_len} tokens | "
        f"{run.options.devices.mesh}{zero} ({jax.default_backend()}{processes})\n{data}",
        highlight=False,
        markup=False,
    )


def bytes_per_device(arrays: Any) -> int:
    """Bytes that each device holds of a pytree of sharded arrays, or of their shapes."""
    return sum(
        math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
        for array in jax.tree.leaves(arrays)
    )


def summary_table(summary: dict[str, Any], title: str) -> Table:
    """The table printed at the end of a run."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    state, adamw = summary["optimizer_state_bytes"], summary["adamw_state_bytes"]
    rows = {
        "train loss (perplexity)": f"{summary['train_loss']:.4f} "
        f"({summary['train_perplexity']:.2f})",
        "validation loss (perplexity)": f"{summary['val_loss']:.4f} "
        f"({summary['val_perplexity']:.2f})",
        **{
            f"validation loss, {name}": f"{loss:.4f}"
            for name, loss in losses_of_sets(summary).items()
        },
        "training time": f"{summary['seconds']:.1f} s "
        f"(+ {summary['compile_seconds']:.1f} s to compile)",
        "speed": f"{summary['tokens_per_second']:,.0f} tokens/s",
        "parameters": f"{summary['parameters']:,}",
        "optimizer state": f"{readable_bytes(state)} (AdamW would hold {readable_bytes(adamw)})",
    }
    on_device = summary["optimizer_state_bytes_per_device"]
    if on_device < state:
        rows["optimizer state per device"] = readable_bytes(on_device)
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def readable_bytes(count: int) -> str:
    """A number of bytes in decimal units, e.g. "1.5 MB"."""
    for factor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count} bytes"

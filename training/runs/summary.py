"""The figures of a run: what is announced, summary.json, and the table printed at the end."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

import lowrank_optax as lro
from training.config.resolved import ResolvedRun, Variant
from training.reports.table import losses_of_sets
from training.runs.metrics import RECENT, perplexity
from training.steps.compiled import CompiledSteps


def announce(run: ResolvedRun, model: str, data: str, console: Console) -> None:
    """Says what is about to happen, with words for the model and the data."""
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


def final_train_loss(records: Sequence[dict[str, Any]]) -> float:
    """Mean training loss over the last tenth of the steps, at most 100: a single batch is noisy."""
    known = [record for record in records if record["loss"] is not None]
    last = records[-1]["step"] if records else 0
    start = last - max(1, min(RECENT, last // 10))
    losses = [record["loss"] for record in known if record["step"] > start or record is known[-1]]
    return float(np.mean(losses)) if losses else math.nan


def summarize(
    variant: Variant, steps: CompiledSteps, records: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The content of summary.json. The last of the records holds a validation loss."""
    params, last = steps.abstract_state.params, records[-1]
    with jax.set_mesh(steps.mesh):
        memory = lro.memory_report(steps.optimizer, params)
    train_loss = final_train_loss(records)
    average = {}
    if "ema_val_loss" in last:
        ema = jax.tree.leaves(steps.abstract_state.ema)
        average = {
            "ema_val_loss": last["ema_val_loss"],
            "ema_bytes": sum(x.size * x.dtype.itemsize for x in ema),
        }
    tokens = last["step"] * steps.options.batch.num_tokens
    return {
        "optimizer": steps.options.method.optimizer,
        "learning_rate": variant.learning_rate,
        "seed": variant.seed,
        "step": last["step"],
        "train_loss": train_loss,
        "train_perplexity": perplexity(train_loss),
        "val_loss": last["val_loss"],
        "val_perplexity": perplexity(last["val_loss"]),
        **{f"val_loss/{name}": loss for name, loss in losses_of_sets(last).items()},
        "seconds": last["seconds"],
        "compile_seconds": round(steps.compile_seconds, 3),
        "tokens_per_second": round(tokens / last["seconds"], 1),
        "parameters": sum(math.prod(x.shape) for x in jax.tree.leaves(params)),
        "optimizer_state_bytes": memory.total_bytes,
        "optimizer_state_bytes_per_device": memory.device_bytes,
        "adamw_state_bytes": memory.adamw_bytes,
        **average,
    }


def summary_table(summary: dict[str, Any], title: str) -> Table:
    """The table printed at the end of a run."""
    loss = lambda part: f"{summary[part + '_loss']:.4f} ({summary[part + '_perplexity']:.2f})"
    size = lambda name: decimal(summary[name], precision=2)
    seconds, compiling = summary["seconds"], summary["compile_seconds"]
    state, adamw = size("optimizer_state_bytes"), size("adamw_state_bytes")
    rows = {
        "train loss (perplexity)": loss("train"),
        "validation loss (perplexity)": loss("val"),
        **{
            f"validation loss, {name}": f"{value:.4f}"
            for name, value in losses_of_sets(summary).items()
        },
        "training time": f"{seconds:.1f} s (+ {compiling:.1f} s to compile)",
        "speed": f"{summary['tokens_per_second']:,.0f} tokens/s",
        "parameters": f"{summary['parameters']:,}",
        "optimizer state": f"{state} (AdamW would hold {adamw})",
    }
    if "ema_bytes" in summary:
        rows["average of the weights"] = (
            f"validation loss {summary['ema_val_loss']:.4f}, {size('ema_bytes')}"
        )
    if summary["optimizer_state_bytes_per_device"] < summary["optimizer_state_bytes"]:
        rows["optimizer state per device"] = size("optimizer_state_bytes_per_device")
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for row in rows.items():
        table.add_row(*row)
    return table

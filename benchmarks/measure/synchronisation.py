"""What devices send, and what it costs in loss, when only low-rank arrays are averaged.

    python -m benchmarks.measure.synchronisation

Trains one small Llama on the standard library's text with a batch that is split over the devices,
with whole gradients averaged and with `sync="low_rank"`, from the same weights on the same batches.
"""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import lowrank_optax as lro
from benchmarks.collectives import collectives
from benchmarks.record import begin, command_line, write_json
from benchmarks.tables import markdown_table
from models.configs import get_config
from models.llama import Llama, matrix_dimension_numbers
from training.config.pretraining import CorpusOptions
from training.config.resolved import BatchShape
from training.data.corpus import load_corpus
from training.steps.objective import next_token_loss

DEVICES = 4
STEPS, BATCH, SEQ_LEN = 200, 16, 64
RANK = 0.25
RATES = {"trion": 0.02, "dion": 0.02}
FALLBACK_RATE = 0.003


def build(method: str, sync: str | None, steps: int) -> optax.GradientTransformationExtraArgs:
    """The optimizer of one row."""
    decay = lambda rate: optax.cosine_decay_schedule(rate, steps, 0.1)
    return getattr(lro, method)(
        decay(RATES[method]),
        RANK,
        sync=sync,
        dimension_numbers=matrix_dimension_numbers,
        fallback=optax.adamw(decay(FALLBACK_RATE)),
    )


def train(method: str, sync: str | None, seed: int, steps: int) -> dict[str, Any]:
    """One run: bytes in collectives per step, and the last losses."""
    corpus = load_corpus(CorpusOptions())
    small = get_config("small", vocab_size=264)
    config = dataclasses.replace(
        small, hidden_size=64, num_heads=2, num_kv_heads=1, intermediate_size=176, num_layers=2
    )
    graphdef, variables = nnx.split(Llama(config, rngs=nnx.Rngs(seed)), nnx.Param)
    params = nnx.to_pure_dict(variables)
    tx = build(method, sync, steps)
    specs = (
        lro.local_state_specs(tx, params)
        if sync
        else jax.tree.map(lambda _: P(), jax.eval_shape(tx.init, params))
    )
    mesh = jax.make_mesh(
        (DEVICES,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:DEVICES]
    )

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(P(), specs, P("data")), out_specs=(P(), specs, P())
    )
    def step(params, state, tokens):
        own = jax.tree.map(lambda p: jax.lax.pcast(p, "data", to="varying"), params)
        loss, gradient = jax.value_and_grad(next_token_loss, argnums=1)(graphdef, own, tokens)
        if sync is None:
            gradient = jax.tree.map(lambda g: jax.lax.pmean(g, "data"), gradient)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, jax.lax.pmean(loss, "data")

    init = jax.shard_map(tx.init, mesh=mesh, in_specs=P(), out_specs=specs)
    state = jax.jit(init)(params)
    shape = BatchShape(BATCH, SEQ_LEN, 16)
    batches = corpus.train_batches(shape, seed)
    first = next(batches)
    compiled = step.lower(params, state, first).compile()
    found = collectives(compiled.as_text())
    tokens = first
    for _ in range(steps):
        params, state, _ = compiled(params, state, tokens)
        tokens = next(batches)
    evaluate = jax.jit(functools.partial(next_token_loss, graphdef))
    held_out = corpus.validation_batches(shape)["val_loss"]
    val_loss = float(np.mean([evaluate(params, batch) for batch in held_out]))
    return {
        "method": method,
        "sync": sync or "gradient",
        "seed": seed,
        "bytes_per_step": sum(each.bytes for each in found),
        "val_loss": val_loss,
    }


def main() -> None:
    """Runs all rows, prints them and writes the JSON."""
    arguments = begin(command_line(__doc__, "synchronisation", rounds=None))
    runs = []
    for seed in range(2):
        for method in RATES:
            for sync in (None, "low_rank"):
                runs.append(train(method, sync, seed, STEPS))
                print(runs[-1], flush=True)
    settings = {
        "devices": DEVICES,
        "steps": STEPS,
        "batch": BATCH,
        "seq_len": SEQ_LEN,
        "rank": RANK,
        "learning_rates": RATES,
        "fallback_learning_rate": FALLBACK_RATE,
    }
    print(table(runs))
    write_json(arguments.out, {"settings": settings, "runs": runs}, arguments.commit)


def table(runs: list[dict[str, Any]]) -> str:
    """One row per method and kind of synchronisation."""
    rows = []
    for method in RATES:
        for sync in ("gradient", "low_rank"):
            mine = [run for run in runs if (run["method"], run["sync"]) == (method, sync)]
            losses = ", ".join(f"{run['val_loss']:.3f}" for run in mine)
            rows.append([method, sync, f"{mine[0]['bytes_per_step']:,}", losses])
    return markdown_table(["method", "averaged", "bytes a step", "validation losses"], rows)


if __name__ == "__main__":
    main()

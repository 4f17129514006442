"""How does the loss move with the rank, the width and the steps, beside memory and time?

Run from the repository's root: ``python -m benchmarks.trade_offs --out runs/trade_offs``. One seed,
at the learning rates that ``train.py compare --tune`` found for the small preset at 500 steps.
Finished runs are reused. Prints tables and writes benchmarks/results/trade_offs.json.
"""

import argparse
import pathlib
from typing import Any

from rich.console import Console

from benchmarks.timing import markdown_table, write_json
from training.config.options import with_options
from training.config.pretraining import CompareConfig
from training.data.corpus import load_corpus
from training.runs.comparison import Comparison

RESULTS = pathlib.Path(__file__).parent / "results"
BASE = with_options(
    CompareConfig(),
    steps=250,
    batch_size=8,
    fallback_learning_rate=0.003,
    checkpoint_every=0,
    eval_every=0,
)

# What varies -> the runs: (optimizer, options that differ from the base).
STUDIES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "rank": [
        *(("trion", {"rank": rank}) for rank in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)),
        ("muon", {}),
        ("adamw", {}),
    ],
    "residual decay": [("trion", {"residual_decay": decay}) for decay in (1.0, 0.98, 0.95, 0.8)],
    "width": [
        (name, {"hidden_size": width}) for width in (64, 256) for name in ("adamw", "muon", "trion")
    ],
    "steps": [
        (name, {"steps": steps}) for steps in (125, 500) for name in ("adamw", "muon", "trion")
    ],
}


def measure(
    optimizer: str, options: dict[str, Any], learning_rate: float, out: pathlib.Path
) -> dict[str, Any]:
    """One run's summary, in a folder that is named after what differs."""
    name = "-".join(f"{key}{value:g}" for key, value in options.items()) or "base"
    config = with_options(BASE, out=out / name, **options)
    comparison = Comparison(config, load_corpus(config.corpus), Console(quiet=True))
    summary = comparison.run(optimizer, learning_rate, 0)
    return {"optimizer": optimizer, **options, "learning_rate": learning_rate, **summary}


def table(study: str, rows: list[dict[str, Any]]) -> str:
    """One study as Markdown: without times, which say how busy the machine was."""
    option = {"width": "hidden_size", "residual decay": "residual_decay"}.get(study, study)
    header = ("optimizer", study, "validation loss", "state / AdamW's")
    cells = [
        (
            row["optimizer"],
            f"{row[option]:g}" if option in row else "-",
            f"{row['val_loss']:.4f}",
            f"{row['optimizer_state_bytes'] / row['adamw_state_bytes']:.2f}",
        )
        for row in rows
    ]
    return f"{study}\n\n{markdown_table(header, cells)}"


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/trade_offs"))
    parser.add_argument("--adamw", type=float, default=0.003, help="learning rate of adamw")
    parser.add_argument("--muon", type=float, default=0.02, help="learning rate of muon")
    parser.add_argument("--trion", type=float, default=0.02, help="learning rate of trion")
    arguments = parser.parse_args()
    studies = {}
    for study, runs in STUDIES.items():
        studies[study] = [
            measure(name, options, getattr(arguments, name), arguments.out)
            for name, options in runs
        ]
        print(table(study, studies[study]), end="\n\n", flush=True)
    write_json(RESULTS / "trade_offs.json", {"studies": studies})


if __name__ == "__main__":
    main()
